// NVFP4 on the device: the unit layout, its decode to BF16 in registers, plain rows for odd shapes.
//
// Unit = 16 rows x 256 k = 2304 contiguous bytes. Codes first: chunk c of 64 k at c * 512, lane
// 4 * g + t at lane * 16: {row g: 8 + 8 codes, row g + 8: 8 + 8 codes} of k = 256 * unit + 64 * c +
// 16 * t .. + 15, so a lane holds whole scale blocks. Then scales at 2048 + lane * 8: byte 2 * c +
// half = E4M3 of row g + 8 * half. A panel is 16 rows, its units behind each other; a gate_up panel
// holds 8 gate rows (g) and 8 up rows (g + 8). Inside a 32-bit word the bits of 8 codes are spread
// so that decode8 needs one shift and one AND for three of four pairs. Plain layout (rows % 16 or k
// % 256 not 0): codes [rows][k / 2], then scales [rows][k / 16]. decode8 yields code * 2^-126 and
// decode_scales scale * 2^118; accumulators are multiplied by 256.
#pragma once

#include "kernels/cuda/common.cuh"

namespace nibble::cuda {

constexpr int kUnitRows = 16, kUnitK = 256, kUnitBytes = 2304;
/// What an accumulator over decoded units must be multiplied with besides the tensor scale.
constexpr float kUnitFix = 256.0f;

__host__ __device__ constexpr bool has_units(int64_t rows, int64_t k) {
  return rows % kUnitRows == 0 && k % kUnitK == 0;
}

/// Bits of code j (0..7) in its word: mantissa, low and high exponent bit, sign.
struct CodeBits {
  int m, e0, e1, sign;
};
__host__ __device__ constexpr CodeBits code_bits(int j) {
  const int half = (j & 1) * 16, pair = j >> 1;
  if (pair < 3) {
    return {half + 6 - 3 * pair, half + 7 - 3 * pair, half + 8 - 3 * pair, half + 15 - 3 * pair};
  }
  return {half + 10, half + 11, half + 13, half + 14};
}

/// 8 codes -> 4 BF16 pairs, k ascending, each code * 2^-126.
__device__ __forceinline__ void decode8(uint32_t w, uint32_t (&pair)[4]) {
  pair[0] = w & 0x81C081C0u;
  pair[1] = (w << 3) & 0x81C081C0u;
  pair[2] = (w << 6) & 0x81C081C0u;
  const uint32_t sign_low = ((w << 1) & 0x80008000u) | ((w >> 4) & 0x7FFF7FFFu);
  pair[3] = (((w >> 5) & 0x01000100u) | (sign_low & 0xFEFFFEFFu)) & 0x81C081C0u;
}

/// E4M3 bytes of row g (low) and row g + 8 -> pairs to multiply codes with.
__device__ __forceinline__ void decode_scales(uint32_t two_bytes, uint32_t& low, uint32_t& high) {
  constexpr uint32_t kTwoTo120 = 0x7B807B80u, kTwoTo118 = 0x7A807A80u;
  low = multiply_bf16(multiply_bf16(__byte_perm(two_bytes, 0, 0x4040) << 4, kTwoTo120), kTwoTo118);
  high = multiply_bf16(multiply_bf16(__byte_perm(two_bytes, 0, 0x4141) << 4, kTwoTo120), kTwoTo118);
}

/// The lane's A registers of 16 rows x 64 k for mma.m16n8k16: a[4 * s .. + 3] for step s of 16 k. B
/// of step s: words 2 * s and 2 * s + 1 of x[16 * t .. + 15].
__device__ __forceinline__ void decode_a(const uint4& codes, uint32_t two_scales,
                                         uint32_t (&a)[16]) {
  uint32_t scale_low, scale_high;
  decode_scales(two_scales, scale_low, scale_high);
#pragma unroll
  for (int word = 0; word < 2; ++word) {
    uint32_t low[4], high[4];
    decode8(word == 0 ? codes.x : codes.y, low);
    decode8(word == 0 ? codes.z : codes.w, high);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = (2 * word + i / 2) * 4 + i % 2 * 2;
      a[at] = multiply_bf16(low[i], scale_low);
      a[at + 1] = multiply_bf16(high[i], scale_high);
    }
  }
}

/// A unit in registers of one warp.
struct UnitRegisters {
  uint4 codes[4];
  uint2 scales;
  __device__ __forceinline__ void load(const uint8_t* unit) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < 4; ++c) codes[c] = load_stream(unit + c * 512 + lane * 16);
    scales = load_stream8(unit + 2048 + lane * 8);
  }
  __device__ __forceinline__ uint32_t two_scales(int c) const {
    return (c < 2 ? scales.x : scales.y) >> (c % 2 * 16);
  }
};

/// acc += unit * x for one row (column 0), in four chains; unit and x[256] (BF16) in shared memory.
__device__ __forceinline__ void multiply_unit_shared(const uint8_t* unit, const uint4* x,
                                                     float (&acc)[4][4]) {
  const int lane = threadIdx.x % 32;
  const uint2 scales = *reinterpret_cast<const uint2*>(unit + 2048 + lane * 8);
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const uint4 codes = *reinterpret_cast<const uint4*>(unit + c * 512 + lane * 16);
    uint4 first = make_uint4(0, 0, 0, 0), second = first;
    if (lane < 4) {
      first = x[c * 8 + lane * 2];
      second = x[c * 8 + lane * 2 + 1];
    }
    uint32_t a[16];
    decode_a(codes, (c < 2 ? scales.x : scales.y) >> (c % 2 * 16), a);
    mma_bf16(acc[0], a[0], a[1], a[2], a[3], first.x, first.y);
    mma_bf16(acc[1], a[4], a[5], a[6], a[7], first.z, first.w);
    mma_bf16(acc[2], a[8], a[9], a[10], a[11], second.x, second.y);
    mma_bf16(acc[3], a[12], a[13], a[14], a[15], second.z, second.w);
  }
}

// ---------------------------------------------------------------- single elements (generic
// kernels)

__device__ __forceinline__ float e2m1_value(int code) {
  // 0 .5 1 1.5 2 3 4 6
  const int m = code & 1, e = (code >> 1) & 3;
  const float magnitude = e == 0 ? 0.5f * float(m) : ldexpf(1.0f + 0.5f * float(m), e - 1);
  return code & 8 ? -magnitude : magnitude;
}
__device__ __forceinline__ float e4m3_value(uint8_t byte) {
  __nv_fp8_e4m3 v;
  v.__x = byte;
  return float(v);
}

/// Code times block scale of element (row, k) of a matrix of `rows` rows, in either layout.
__device__ __forceinline__ float nvfp4_element(const uint8_t* data, int64_t rows, int64_t columns,
                                               int64_t row, int64_t k) {
  if (!has_units(rows, columns)) {
    const uint8_t byte = data[row * (columns / 2) + k / 2];
    const uint8_t scale = data[rows * (columns / 2) + row * (columns / 16) + k / 16] & 0x7F;
    return e2m1_value(k % 2 ? byte >> 4 : byte & 15) * e4m3_value(scale);
  }
  const int64_t panel = row / 16, unit = k / 256;
  const uint8_t* u = data + (panel * (columns / 256) + unit) * kUnitBytes;
  const int g = int(row % 8), half = int(row % 16 / 8), c = int(k % 256 / 64), t = int(k % 64 / 16);
  const int word = int(k % 16 / 8), lane = 4 * g + t;
  const uint32_t w =
      *reinterpret_cast<const uint32_t*>(u + c * 512 + lane * 16 + half * 8 + word * 4);
  const CodeBits bits = code_bits(int(k % 8));
  const int code = int(w >> bits.m & 1) | int(w >> bits.e0 & 1) << 1 | int(w >> bits.e1 & 1) << 2 |
                   int(w >> bits.sign & 1) << 3;
  return e2m1_value(code) * e4m3_value(u[2048 + lane * 8 + 2 * c + half]);
}

/// Row of a bank's gate_up matrix [2 * intermediate][k] that holds gate (or up) row i: in unit
/// panels 8 gate rows alternate with 8 up rows; plain banks hold all gate rows, then all up rows.
__host__ __device__ constexpr bool gate_up_interleaved(bool nvfp4, int64_t intermediate,
                                                       int64_t k) {
  return nvfp4 && intermediate % 8 == 0 && has_units(2 * intermediate, k);
}
__host__ __device__ constexpr int64_t gate_up_row(bool interleaved, int64_t intermediate, int64_t i,
                                                  bool up) {
  return interleaved ? i / 8 * 16 + i % 8 + (up ? 8 : 0) : i + (up ? intermediate : 0);
}

/// Element (row, k) of a matrix in any packed format, without the tensor scale.
__device__ __forceinline__ float weight_element(Format format, const void* data, int64_t rows,
                                                int64_t columns, int64_t row, int64_t k) {
  if (format == Format::bf16) return to_float(static_cast<const bf16*>(data)[row * columns + k]);
  if (format == Format::fp8)
    return e4m3_value(static_cast<const uint8_t*>(data)[row * columns + k]);
  return nvfp4_element(static_cast<const uint8_t*>(data), rows, columns, row, k);
}

}  // namespace nibble::cuda
