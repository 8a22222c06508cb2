// wgmma: 64 rows times N columns with f32 accumulators, on BF16, FP16 and E4M3.
//
// sm_90a only; elsewhere compiled to traps and never launched. Operands in shared memory are tiles
// with rows of 128 bytes and the 128-byte swizzle, rows in groups of 8 (1024 bytes). PTX wants
// every accumulator named and numbers the operands behind them: each list stands here once, as a
// macro that ends with this header.
#pragma once

#include "kernels/cuda/common.cuh"

namespace nibble::cuda {

/// K-major tile. A step of 32 bytes of k adds 2.
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t address) {
  return uint64_t((address & 0x3FFFF) >> 4) | (uint64_t(1) << 16) | (uint64_t(64) << 32) |
         (uint64_t(1) << 62);
}
constexpr int kSquareTileBytes = 64 * 128;
/// 64-row tiles whose rows are k and whose columns are n: four tiles behind each other are 256
/// columns. A step of 16 k adds 128.
__device__ __forceinline__ uint64_t transposed_descriptor(uint32_t address) {
  return uint64_t((address & 0x3FFFF) >> 4) | (uint64_t(kSquareTileBytes >> 4) << 16) |
         (uint64_t(64) << 32) | (uint64_t(1) << 62);
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define NIBBLE_SM90(...) asm volatile(__VA_ARGS__)
#else
#define NIBBLE_SM90(...) __trap()
#endif

__device__ __forceinline__ void wgmma_fence() {
  NIBBLE_SM90("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  NIBBLE_SM90("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  NIBBLE_SM90("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// Gives registers of a warpgroup back, or takes more: every warp of it, once.
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  NIBBLE_SM90("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  NIBBLE_SM90("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// The accumulators d[] as operands, and their names in the text: %0 .. %(count - 1).
#define NIBBLE_F8(i)                                                                          \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define NIBBLE_F16(i) NIBBLE_F8(i), NIBBLE_F8(i + 8)
#define NIBBLE_F32(i) NIBBLE_F16(i), NIBBLE_F16(i + 16)
#define NIBBLE_F48(i) NIBBLE_F32(i), NIBBLE_F16(i + 32)
#define NIBBLE_F64(i) NIBBLE_F32(i), NIBBLE_F32(i + 32)
#define NIBBLE_F128(i) NIBBLE_F64(i), NIBBLE_F64(i + 64)
#define NIBBLE_TEN(t)                                                                              \
  "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t \
  "9, "
#define NIBBLE_40 NIBBLE_TEN() NIBBLE_TEN(1) NIBBLE_TEN(2) NIBBLE_TEN(3)
#define NIBBLE_NAMES_16 NIBBLE_TEN() "%10, %11, %12, %13, %14, %15"
#define NIBBLE_NAMES_32 NIBBLE_TEN() NIBBLE_TEN(1) NIBBLE_TEN(2) "%30, %31"
#define NIBBLE_NAMES_48 NIBBLE_40 "%40, %41, %42, %43, %44, %45, %46, %47"
#define NIBBLE_NAMES_64 NIBBLE_40 NIBBLE_TEN(4) NIBBLE_TEN(5) "%60, %61, %62, %63"
#define NIBBLE_NAMES_128                                                                        \
  NIBBLE_40 NIBBLE_TEN(4) NIBBLE_TEN(5) NIBBLE_TEN(6) NIBBLE_TEN(7) NIBBLE_TEN(8) NIBBLE_TEN(9) \
      NIBBLE_TEN(10) NIBBLE_TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127"

// One instruction: `count` accumulators, the operands' text, whether to accumulate (0, 1 or an
// operand), what follows the scales (transpositions of 16-bit operands), then the inputs.
#define NIBBLE_WGMMA(type, count, operands, accumulate, tail, ...)                 \
  NIBBLE_SM90("{\n.reg .pred p;\nsetp.ne.b32 p, " accumulate                       \
              ", 0;\nwgmma.mma_async.sync.aligned." type " {" NIBBLE_NAMES_##count \
              "}, " operands ", p, 1, 1" tail ";\n}"                               \
              : NIBBLE_F##count(0)                                                 \
              : __VA_ARGS__)
#define NIBBLE_A "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])

/// d += A * B: rs(d, a, b) of 32 bytes of k. a: 16 rows per warp in registers, as of mma.sync; b:
/// descriptor of N K-major rows.
template <typename Operand, int N>
struct Wgmma;
#define NIBBLE_WGMMA_RS(operand, type, tail, n, count, a0, a1, a2, a3, b0)                        \
  template <>                                                                                     \
  struct Wgmma<operand, n> {                                                                      \
    __device__ static __forceinline__ void rs(float (&d)[count], const uint32_t* a, uint64_t b) { \
      NIBBLE_WGMMA("m64n" #n type, count, "{%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #b0, "1", \
                   tail, NIBBLE_A, "l"(b));                                                       \
    }                                                                                             \
  }
#define NIBBLE_WGMMA_TYPES(...)                                   \
  NIBBLE_WGMMA_RS(bf16, "k16.f32.bf16.bf16", ", 0", __VA_ARGS__); \
  NIBBLE_WGMMA_RS(__nv_fp8_e4m3, "k32.f32.e4m3.e4m3", "", __VA_ARGS__)
NIBBLE_WGMMA_TYPES(32, 16, 16, 17, 18, 19, 20);
NIBBLE_WGMMA_TYPES(64, 32, 32, 33, 34, 35, 36);
NIBBLE_WGMMA_TYPES(96, 48, 48, 49, 50, 51, 52);
NIBBLE_WGMMA_TYPES(128, 64, 64, 65, 66, 67, 68);

/// Prefill attention, BF16: d (+)= A B^T, 64 queries x 64 keys, 16 dimensions, both in shared
/// memory, K-major.
template <bool kAccumulate>
__device__ __forceinline__ void wgmma_scores(float (&d)[32], uint64_t a, uint64_t b) {
  NIBBLE_WGMMA("m64n64k16.f32.bf16.bf16", 32, "%32, %33", "%34", ", 0, 0", "l"(a), "l"(b),
               "n"(kAccumulate ? 1 : 0));
}
/// d += P V: 64 queries x 256 dimensions, 16 keys. a: P, 16 x 16 per warp; b: V, rows are keys.
__device__ __forceinline__ void wgmma_values(float (&d)[128], const uint32_t* a, uint64_t b) {
  NIBBLE_WGMMA("m64n256k16.f32.bf16.bf16", 128, "{%128, %129, %130, %131}, %132", "1", ", 1",
               NIBBLE_A, "l"(b));
}

/// Chunked delta rule, FP16: d (+)= A B^T, B: 64 rows, k along a row.
template <bool kAccumulate>
__device__ __forceinline__ void wgmma_rows(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  NIBBLE_WGMMA("m64n64k16.f32.f16.f16", 32, "{%32, %33, %34, %35}, %36", "%37", ", 0", NIBBLE_A,
               "l"(b), "n"(kAccumulate ? 1 : 0));
}
/// d += A B, B: rows are k, 128 columns in two tiles.
__device__ __forceinline__ void wgmma_columns(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  NIBBLE_WGMMA("m64n128k16.f32.f16.f16", 64, "{%64, %65, %66, %67}, %68", "1", ", 1", NIBBLE_A,
               "l"(b));
}

#undef NIBBLE_SM90
#undef NIBBLE_F8
#undef NIBBLE_F16
#undef NIBBLE_F32
#undef NIBBLE_F48
#undef NIBBLE_F64
#undef NIBBLE_F128
#undef NIBBLE_TEN
#undef NIBBLE_40
#undef NIBBLE_NAMES_16
#undef NIBBLE_NAMES_32
#undef NIBBLE_NAMES_48
#undef NIBBLE_NAMES_64
#undef NIBBLE_NAMES_128
#undef NIBBLE_WGMMA
#undef NIBBLE_A
#undef NIBBLE_WGMMA_RS
#undef NIBBLE_WGMMA_TYPES

}  // namespace nibble::cuda
