// Dense products of a step: y[m][n] (+)= scale * x[m][k] W[n][k]^T. See linear.h for who is used
// when.
//
// linear_mma: CTA = one panel of 16 output rows, its warps share out K, tokens are the columns of
// mma.m16n8k16; every weight byte is read once for up to 32 rows. k is permuted inside each step in
// the same way for both operands, so a lane loads 16 contiguous bytes.
#include "kernels/cuda/linear.h"
#include "kernels/cuda/nvfp4.cuh"

namespace nibble::cuda {
namespace {

constexpr int kMaxWarps = 16;

__device__ __forceinline__ void write_out(const LinearArgs& args, int64_t row, int64_t column,
                                          float value) {
  const int64_t at = row * args.out_stride + column;
  if (args.out_type == Element::bf16) {
    store_as(static_cast<bf16*>(args.out) + at, value);
  } else if (args.accumulate) {
    static_cast<float*>(args.out)[at] += value;
  } else {
    static_cast<float*>(args.out)[at] = value;
  }
}

// ---------------------------------------------------------------- any shape

constexpr int kGenericRows = 4;

template <typename X>
__global__ void __launch_bounds__(256) linear_generic_kernel(LinearArgs args) {
  const Weight w = args.weight;
  const int64_t column = blockIdx.x * int64_t{8} + threadIdx.x / 32;
  const int64_t first = blockIdx.y * int64_t{kGenericRows};
  if (column >= w.n) return;
  const int lane = threadIdx.x % 32;
  const X* x = static_cast<const X*>(args.x);
  float sum[kGenericRows] = {};
  for (int64_t k = lane; k < w.k; k += 32) {
    const float weight = weight_element(w.format, w.data, w.n, w.k, column, k);
#pragma unroll
    for (int r = 0; r < kGenericRows; ++r) {
      if (first + r < args.m) sum[r] = fmaf(to_float(x[(first + r) * w.k + k]), weight, sum[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kGenericRows; ++r) {
    const float total = warp_sum(sum[r]);
    if (lane == 0 && first + r < args.m) write_out(args, first + r, column, total * w.scale);
  }
}

// ---------------------------------------------------------------- few rows, tensor cores

/// The sums of all warps of a panel, then out. partial: [warps][16][columns].
template <int kColumns>
__device__ __forceinline__ void finish_panel(const LinearArgs& args, const float* partial,
                                             int warps, float factor) {
  __syncthreads();
  for (int i = threadIdx.x; i < 16 * int(args.m); i += blockDim.x) {
    const int r = i % 16, token = i / 16;
    const int64_t column = blockIdx.x * int64_t{16} + r;
    if (column >= args.weight.n) continue;
    float y = 0;
    for (int w = 0; w < warps; ++w) y += partial[(w * 16 + r) * kColumns + token];
    write_out(args, token, column, y * factor);
  }
}

template <int kGroups>
__device__ __forceinline__ void store_partial(float (&acc)[kGroups][4], float* partial) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      partial[(warp * 16 + g + 8 * (i / 2)) * (8 * kGroups) + n * 8 + 2 * t + i % 2] = acc[n][i];
    }
  }
}

/// Row-major BF16 or FP8 weights; 8 steps of 32 k per warp and round.
template <Format kFormat, int kGroups>
__global__ void __launch_bounds__(kMaxWarps * 32) linear_mma_kernel(LinearArgs args) {
  extern __shared__ float partial[];
  constexpr int kSteps = 8;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int warps = blockDim.x / 32;
  const int64_t k = args.weight.k, row = blockIdx.x * int64_t{16} + g;
  const bool has_low = row < args.weight.n, has_high = row + 8 < args.weight.n;
  const bf16* x = static_cast<const bf16*>(args.x);
  float acc[kGroups][4] = {};
  bool waited = false;
  for (int64_t chunk = warp * int64_t{kSteps * 32}; chunk < k; chunk += warps * kSteps * 32) {
    uint4 a[kSteps][2];
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int64_t at = chunk + s * 32 + t * 8;
      a[s][0] = a[s][1] = make_uint4(0, 0, 0, 0);
      if (at >= k) continue;
      if constexpr (kFormat == Format::bf16) {
        const bf16* w = static_cast<const bf16*>(args.weight.data) + row * k + at;
        if (has_low) a[s][0] = load_stream(w);
        if (has_high) a[s][1] = load_stream(w + 8 * k);
      } else {
        const uint8_t* w = static_cast<const uint8_t*>(args.weight.data) + row * k + at;
        const uint2 low = has_low ? load_stream8(w) : make_uint2(0, 0);
        const uint2 high = has_high ? load_stream8(w + 8 * k) : make_uint2(0, 0);
        a[s][0].x = low.x, a[s][0].y = low.y, a[s][1].x = high.x, a[s][1].y = high.y;
      }
    }
    if (!waited) {
      grid_wait();
      grid_release();
      waited = true;
    }
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int64_t at = chunk + s * 32 + t * 8;
      if constexpr (kFormat == Format::fp8) {
        const uint4 low = a[s][0], high = a[s][1];
        decode_fp8x4(low.x, a[s][0].x, a[s][0].y);
        decode_fp8x4(low.y, a[s][0].z, a[s][0].w);
        decode_fp8x4(high.x, a[s][1].x, a[s][1].y);
        decode_fp8x4(high.y, a[s][1].z, a[s][1].w);
      }
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        uint4 b = make_uint4(0, 0, 0, 0);
        if (n * 8 + g < args.m && at < k) {
          b = *reinterpret_cast<const uint4*>(x + (n * 8 + g) * k + at);
        }
        mma_bf16(acc[n], a[s][0].x, a[s][1].x, a[s][0].y, a[s][1].y, b.x, b.y);
        mma_bf16(acc[n], a[s][0].z, a[s][1].z, a[s][0].w, a[s][1].w, b.z, b.w);
      }
    }
  }
  if (!waited) {
    grid_wait();
    grid_release();
  }
  store_partial<kGroups>(acc, partial);
  finish_panel<8 * kGroups>(args, partial, warps, args.weight.scale);
}

/// NVFP4 in units: a warp per unit of the panel.
template <int kGroups>
__global__ void __launch_bounds__(kMaxWarps * 32) linear_units_kernel(LinearArgs args) {
  extern __shared__ float partial[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int warps = blockDim.x / 32;
  const int64_t k = args.weight.k, units = k / kUnitK;
  const uint8_t* panel =
      static_cast<const uint8_t*>(args.weight.data) + blockIdx.x * units * kUnitBytes;
  const bf16* x = static_cast<const bf16*>(args.x);
  float acc[kGroups][4] = {};
  bool waited = false;
  for (int64_t unit = warp; unit < units; unit += warps) {
    UnitRegisters u;
    u.load(panel + unit * kUnitBytes);
    if (!waited) {
      grid_wait();
      grid_release();
      waited = true;
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      uint32_t a[16];
      decode_a(u.codes[c], u.two_scales(c), a);
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        uint4 b[2] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
        if (n * 8 + g < args.m) {
          const uint4* from =
              reinterpret_cast<const uint4*>(x + (n * 8 + g) * k + unit * kUnitK + c * 64 + t * 16);
          b[0] = from[0];
          b[1] = from[1];
        }
        mma_bf16(acc[n], a[0], a[1], a[2], a[3], b[0].x, b[0].y);
        mma_bf16(acc[n], a[4], a[5], a[6], a[7], b[0].z, b[0].w);
        mma_bf16(acc[n], a[8], a[9], a[10], a[11], b[1].x, b[1].y);
        mma_bf16(acc[n], a[12], a[13], a[14], a[15], b[1].z, b[1].w);
      }
    }
  }
  if (!waited) {
    grid_wait();
    grid_release();
  }
  store_partial<kGroups>(acc, partial);
  finish_panel<8 * kGroups>(args, partial, warps, args.weight.scale * kUnitFix);
}

template <int kGroups>
void launch_mma(const LinearArgs& args, Stream stream, bool chained) {
  const int64_t pieces = (args.weight.k + kUnitK - 1) / kUnitK;
  const int warps = static_cast<int>(pieces < kMaxWarps ? pieces : kMaxWarps);
  const size_t bytes = sizeof(float) * size_t(warps) * 16 * 8 * kGroups;
  const dim3 grid(ceil_div(args.weight.n, 16));
  auto* kernel = args.weight.format == Format::bf16  ? linear_mma_kernel<Format::bf16, kGroups>
                 : args.weight.format == Format::fp8 ? linear_mma_kernel<Format::fp8, kGroups>
                                                     : linear_units_kernel<kGroups>;
  launch("linear_mma", kernel, grid, warps * 32, bytes, stream, chained, args);
}

// ---------------------------------------------------------------- dequantize and pack

/// Thread = 16 elements of one row.
__global__ void __launch_bounds__(256)
    dequantize_kernel(Weight weight, int64_t first, int64_t count, bf16* out) {
  const int64_t i = blockIdx.x * int64_t{256} + threadIdx.x, per_row = (weight.k + 15) / 16;
  if (i >= count * per_row) return;
  const int64_t row = i / per_row, k0 = i % per_row * 16;
  if (weight.format == Format::fp8 && weight.k % 16 == 0) {
    const uint4 codes =
        load_stream(static_cast<const uint8_t*>(weight.data) + (first + row) * weight.k + k0);
    uint4 low, high;
    decode_fp8x4(codes.x, low.x, low.y);
    decode_fp8x4(codes.y, low.z, low.w);
    decode_fp8x4(codes.z, high.x, high.y);
    decode_fp8x4(codes.w, high.z, high.w);
    uint4* to = reinterpret_cast<uint4*>(out + row * weight.k + k0);
    to[0] = low;
    to[1] = high;
    return;
  }
  for (int64_t k = k0; k < k0 + 16 && k < weight.k; ++k) {
    out[row * weight.k + k] = __float2bfloat16(
        weight_element(weight.format, weight.data, weight.n, weight.k, first + row, k));
  }
}

/// 4 code bytes (low nibble first) -> the word decode8 reads.
__device__ uint32_t spread_codes(uint32_t bytes) {
  uint32_t word = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const uint32_t code = bytes >> (4 * j);
    const CodeBits bits = code_bits(j);
    word |= (code & 1) << bits.m | (code >> 1 & 1) << bits.e0 | (code >> 2 & 1) << bits.e1 |
            (code >> 3 & 1) << bits.sign;
  }
  return word;
}

/// Where the rows of a panel come from: rows g and g + 8 of one matrix, or gate g and up g.
struct PanelSource {
  const uint8_t* codes[2];
  const uint8_t* scales[2];
  int64_t rows_per_panel;
};

/// Thread = one lane of one chunk of one unit.
__global__ void __launch_bounds__(128)
    pack_units_kernel(PanelSource source, int64_t k, uint8_t* out) {
  const int c = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int64_t units = k / kUnitK, panel = blockIdx.x / units, unit = blockIdx.x % units;
  uint8_t* to = out + blockIdx.x * int64_t{kUnitBytes};
  uint4 words;
  uint32_t* w = &words.x;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = panel * source.rows_per_panel + g;
    const int64_t at = unit * kUnitK + c * 64 + t * 16;
    const uint2 bytes =
        *reinterpret_cast<const uint2*>(source.codes[half] + row * (k / 2) + at / 2);
    w[2 * half] = spread_codes(bytes.x);
    w[2 * half + 1] = spread_codes(bytes.y);
    to[2048 + lane * 8 + 2 * c + half] = source.scales[half][row * (k / 16) + at / 16] & 0x7F;
  }
  *reinterpret_cast<uint4*>(to + c * 512 + lane * 16) = words;
}

void pack_units(const PanelSource& source, int64_t panels, int64_t k, void* out, Stream stream) {
  launch("pack_units", pack_units_kernel, dim3(unsigned(panels * (k / kUnitK))), 128, 0, stream,
         false, source, k, static_cast<uint8_t*>(out));
}

const uint8_t* bytes_of(const void* p) {
  return static_cast<const uint8_t*>(p);
}

void copy_bytes(uint8_t* to, const void* from, int64_t bytes, Stream stream) {
  check_launch(cudaMemcpyAsync(to, from, size_t(bytes), cudaMemcpyDeviceToDevice, stream),
               "packing copy");
}

}  // namespace

size_t packed_bytes(Format format, int64_t n, int64_t k) {
  const auto elements = static_cast<size_t>(n * k);
  if (format == Format::bf16) return 2 * elements;
  return format == Format::fp8 ? elements : elements / 2 + elements / 16;
}

void linear_generic(const LinearArgs& args, Stream stream) {
  if (args.m == 0) return;
  const dim3 grid(ceil_div(args.weight.n, 8), ceil_div(args.m, kGenericRows));
  auto* kernel =
      args.x_type == Element::bf16 ? linear_generic_kernel<bf16> : linear_generic_kernel<float>;
  launch("linear_generic", kernel, grid, 256, 0, stream, false, args);
}

bool can_linear_mma(const LinearArgs& args) {
  const Weight& w = args.weight;
  return args.x_type == Element::bf16 && args.m <= kMaxMmaRows && args.m > 0 && w.k % 32 == 0 &&
         (w.format != Format::nvfp4 || has_units(w.n, w.k));
}

void linear_mma(const LinearArgs& args, Stream stream, bool chained) {
  if (args.m <= 8) return launch_mma<1>(args, stream, chained);
  if (args.m <= 16) return launch_mma<2>(args, stream, chained);
  launch_mma<4>(args, stream, chained);
}

void dequantize(const Weight& weight, int64_t first, int64_t count, void* out, Stream stream) {
  const int64_t threads = count * ((weight.k + 15) / 16);
  launch("dequantize", dequantize_kernel, dim3(ceil_div(threads, 256)), 256, 0, stream, false,
         weight, first, count, static_cast<bf16*>(out));
}

void pack_nvfp4(const void* codes, const void* scales, int64_t n, int64_t k, void* out,
                Stream stream) {
  if (!has_units(n, k)) {
    auto* to = static_cast<uint8_t*>(out);
    copy_bytes(to, codes, n * k / 2, stream);
    copy_bytes(to + n * k / 2, scales, n * k / 16, stream);
    return;
  }
  const PanelSource source{{bytes_of(codes), bytes_of(codes) + 8 * (k / 2)},
                           {bytes_of(scales), bytes_of(scales) + 8 * (k / 16)},
                           16};
  pack_units(source, n / 16, k, out, stream);
}

void pack_gate_up_nvfp4(const GateUpSource& s, int64_t intermediate, int64_t k, void* out,
                        Stream stream) {
  if (!gate_up_interleaved(true, intermediate, k)) {
    auto* to = static_cast<uint8_t*>(out);
    const int64_t codes = intermediate * k / 2, scales = intermediate * k / 16;
    copy_bytes(to, s.gate_codes, codes, stream);
    copy_bytes(to + codes, s.up_codes, codes, stream);
    copy_bytes(to + 2 * codes, s.gate_scales, scales, stream);
    copy_bytes(to + 2 * codes + scales, s.up_scales, scales, stream);
    return;
  }
  const PanelSource source{{bytes_of(s.gate_codes), bytes_of(s.up_codes)},
                           {bytes_of(s.gate_scales), bytes_of(s.up_scales)},
                           8};
  pack_units(source, intermediate / 8, k, out, stream);
}

}  // namespace nibble::cuda
