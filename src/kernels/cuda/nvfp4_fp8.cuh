// NVFP4 units decoded to E4M3: byte = rn(code * block scale / 8), times 8 on the accumulator.
//
// The codes of a block share their scale, so the eight magnitudes they can become are eight bytes,
// two registers: PRMT looks four codes up at once. The tables of all scale bytes lie in shared
// memory. A lane's bytes leave in the order that costs least: of the 16 k of its block, k = 8 * s +
// 2 * pair + q goes to byte fp8_pair_at(pair) of register q of step s. Rows that meet them hold k
// in the same order (fp8_permuted_k).
#pragma once

#include "kernels/cuda/fp8_rows.cuh"
#include "kernels/cuda/nvfp4.cuh"

namespace nibble::cuda {

/// What an accumulator over such bytes must be multiplied with besides tensor and row scales.
constexpr float kFp8UnitFix = 8.0f;

/// Byte i of the even and of the odd codes of a word holds pair fp8_pair_at(i).
__host__ __device__ constexpr int fp8_pair_at(int i) {
  return i == 3 ? 3 : 2 - i;
}

/// Where element k of an activation row of E4M3 bytes is stored.
__host__ __device__ constexpr int fp8_permuted_k(int k) {
  const int t = k % 64 / 16, s = k % 16 / 8, pair = k % 8 / 2, q = k % 2;
  return k / 64 * 64 + 32 * s + 16 * q + 4 * t + fp8_pair_at(pair);
}

/// Magnitudes of all scale bytes: table[scale] = bytes of codes 0 .. 7.
constexpr int kFp8Scales = 128;
__device__ __forceinline__ void fill_fp8_table(uint2* table) {
  for (int i = threadIdx.x; i < kFp8Scales * 8; i += blockDim.x) {
    const float value = e2m1_value(i % 8) * e4m3_value(uint8_t(i / 8)) * 0.125f;
    reinterpret_cast<uint8_t*>(table)[i] = __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
  }
}

__device__ __forceinline__ uint32_t permute_bytes(uint2 from, uint32_t select) {
  uint32_t d;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(from.x), "r"(from.y), "r"(select));
  return d;
}
/// Bits 7, 10, 12 and 13 to bits 7, 15, 31 and 23, with other bits between them.
__device__ __forceinline__ uint32_t spread_signs(uint32_t bits) {
  return (bits & 0x3480u) * ((1u << 0) + (1u << 5) + (1u << 19) + (1u << 10));
}

/// 8 codes of a word (nvfp4.cuh) to the bytes of the even and of the odd ones.
__device__ __forceinline__ void decode8_fp8(uint32_t w, uint2 table, uint32_t& even,
                                            uint32_t& odd) {
  const uint32_t select = (w & 0x00070007u) | (w << 1 & 0x40704070u) | (w << 2 & 0x37003700u);
  even = permute_bytes(table, select) | (spread_signs(w >> 2) & 0x80808080u);
  odd = permute_bytes(table, select >> 16) | (spread_signs(w >> 18) & 0x80808080u);
}

/// The lane's A registers of 16 rows x 64 k: a[4 * s .. + 3] for step s of 32 k.
__device__ __forceinline__ void decode_a_fp8(const uint4& codes, uint2 low, uint2 high,
                                             uint32_t* a) {
  decode8_fp8(codes.x, low, a[0], a[2]);
  decode8_fp8(codes.z, high, a[1], a[3]);
  decode8_fp8(codes.y, low, a[4], a[6]);
  decode8_fp8(codes.w, high, a[5], a[7]);
}

/// BF16 values k .. k + 7 (k % 8 == 0) times `inverse` to their places in an activation row.
__device__ __forceinline__ void store_fp8_permuted(uint8_t* row, int k, const uint4& x,
                                                   float inverse) {
  const auto low = [&](uint32_t pair) { return bf16_low(pair) * inverse; };
  const auto high = [&](uint32_t pair) { return bf16_high(pair) * inverse; };
  uint32_t* to = reinterpret_cast<uint32_t*>(row + fp8_permuted_k(k + 4));  // pair 2 comes first
  to[0] = pack_fp8x4(low(x.z), low(x.y), low(x.x), low(x.w));
  to[4] = pack_fp8x4(high(x.z), high(x.y), high(x.x), high(x.w));
}

}  // namespace nibble::cuda
