// Row-wise operations: embedding, norms, gates, additions. One CTA per row or one thread per
// element.
//
// All in f32; the output is rounded once, to the activation type.
#include "kernels/cuda/common.cuh"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void embed_kernel(EmbedArgs args) {
  const int64_t row = blockIdx.x;
  const int32_t over = args.override_index == nullptr ? -1 : args.override_index[row];
  const size_t from = static_cast<size_t>(over >= 0 ? over : args.token_ids[row]) * args.n;
  for (int64_t i = threadIdx.x; i < args.n; i += blockDim.x) {
    args.out[row * args.n + i] = over >= 0
                                     ? load_element(args.overrides, args.override_type, from + i)
                                     : load_element(args.table, args.table_type, from + i);
  }
}

template <typename T>
__global__ void rms_norm_kernel(RmsNormArgs args) {
  const int64_t from = args.row_index == nullptr ? blockIdx.x : args.row_index[blockIdx.x];
  const float* x = args.x + from * args.n;
  T* out = static_cast<T*>(args.out) + blockIdx.x * args.n;
  float sum = 0;
  for (int64_t i = threadIdx.x; i < args.n; i += blockDim.x) sum += x[i] * x[i];
  const float r = rsqrtf(block_sum(sum) / static_cast<float>(args.n) + args.eps);
  for (int64_t i = threadIdx.x; i < args.n; i += blockDim.x) {
    store_as(out + i, x[i] * r * (1.0f + args.weight[i]));
  }
}

/// CTA = one head of one row; heads behind num_heads are key heads.
__global__ void qk_norm_rope_kernel(QkNormRopeArgs args) {
  extern __shared__ float head[];
  const int64_t row = blockIdx.x;
  const int h = blockIdx.y;
  const int d = args.head_dim, pairs = args.rotary_dim / 2;
  const bool is_query = h < args.num_heads;
  const int kv = h - args.num_heads;
  const float* x = is_query ? args.q_gate + row * args.q_stride + int64_t{2} * h * d
                            : args.k_in + row * args.k_stride + kv * d;
  const float* weight = is_query ? args.q_norm : args.k_norm;
  float* out = is_query ? args.q + (row * args.num_heads + h) * d
                        : args.k + (row * args.num_kv_heads + kv) * d;
  float sum = 0;
  for (int i = threadIdx.x; i < d; i += blockDim.x) sum += x[i] * x[i];
  const float r = rsqrtf(block_sum(sum) / static_cast<float>(d) + args.eps);
  for (int i = threadIdx.x; i < d; i += blockDim.x) {
    head[i] = x[i] * r * (1.0f + weight[i]);
    if (is_query) args.gate[(row * args.num_heads + h) * d + i] = x[d + i];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < d; i += blockDim.x) {
    if (i >= pairs) {
      if (i >= 2 * pairs) out[i] = head[i];
      continue;
    }
    const bool height = i % 3 == 1 && i < 3 * args.mrope_section[1];
    const bool width = i % 3 == 2 && i < 3 * args.mrope_section[2];
    const int position = args.step.positions[row * 3 + (height ? 1 : width ? 2 : 0)];
    float sine, cosine;
    sincosf(static_cast<float>(position) * args.inverse_frequencies[i], &sine, &cosine);
    const float a = head[i], b = head[i + pairs];
    out[i] = a * cosine - b * sine;
    out[i + pairs] = b * cosine + a * sine;
  }
}

template <typename T>
__global__ void sigmoid_gate_kernel(const float* x, const float* gate, T* out, int64_t count) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < count) store_as(out + i, x[i] * sigmoid(gate[i]));
}

__global__ void delta_gates_kernel(DeltaGatesArgs args) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= args.rows * args.heads) return;
  const int64_t head = i % args.heads;
  args.a_to_g[i] = -expf(args.a_log[head]) * softplus(args.a_to_g[i] + args.dt_bias[head]);
  args.b_to_beta[i] = sigmoid(args.b_to_beta[i]);
}

/// One warp per head of a row.
template <typename T>
__global__ void gated_rms_norm_kernel(GatedRmsNormArgs args) {
  const int64_t head = blockIdx.x * int64_t{kThreads / 32} + threadIdx.x / 32;
  if (head >= args.rows * args.heads) return;
  const int lane = threadIdx.x % 32;
  const int64_t d = args.head_dim, at = head * d;
  float sum = 0;
  for (int64_t i = lane; i < d; i += 32) sum += args.core[at + i] * args.core[at + i];
  const float r = rsqrtf(warp_sum(sum) / static_cast<float>(d) + args.eps);
  T* out = static_cast<T*>(args.out);
  for (int64_t i = lane; i < d; i += 32) {
    store_as(out + at + i, args.core[at + i] * r * args.weight[i] * silu(args.z[at + i]));
  }
}

__global__ void add_shared_kernel(AddSharedArgs args) {
  const int64_t row = blockIdx.x;
  const float gate = sigmoid(args.gate_logit[row]);
  for (int64_t i = row * args.n + threadIdx.x; i < (row + 1) * args.n; i += blockDim.x) {
    const float base = args.base == nullptr ? 0.0f : args.base[i];
    args.out[i] = base + (args.routed[i] + gate * args.shared[i]);
  }
  __syncthreads();
  if (threadIdx.x == 0) args.gate_logit[row] = gate;
}

__global__ void add_kernel(const float* x, float* out, int64_t count) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < count) out[i] += x[i];
}

template <typename T>
__global__ void gather_rows_kernel(const float* x, const int32_t* rows, T* out, int64_t n) {
  const int64_t from = rows[blockIdx.x];
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    store_as(out + blockIdx.x * n + i, x[from * n + i]);
  }
}

// base/rng.h random_bits.
__device__ uint64_t random_bits(uint64_t seed, uint64_t counter) {
  uint64_t z = seed + (counter + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

__global__ void random_bytes_kernel(uint64_t* out, size_t words, uint64_t seed, uint64_t keep,
                                    uint64_t add) {
  const size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x;
  if (i < words) out[i] = (random_bits(seed, i) & keep) + add;
}

}  // namespace

void embed(const EmbedArgs& args, Stream stream) {
  launch("embed", embed_kernel, dim3(unsigned(args.rows)), kThreads, 0, stream, false, args);
}

void rms_norm(const RmsNormArgs& args, Stream stream) {
  if (args.rows == 0) return;
  auto* kernel = args.out_type == Element::bf16 ? rms_norm_kernel<bf16> : rms_norm_kernel<float>;
  launch("rms_norm", kernel, dim3(unsigned(args.rows)), kThreads, 0, stream, false, args);
}

void qk_norm_rope(const QkNormRopeArgs& args, Stream stream) {
  const dim3 grid(unsigned(args.step.rows), unsigned(args.num_heads + args.num_kv_heads));
  launch("qk_norm_rope", qk_norm_rope_kernel, grid, 128, args.head_dim * sizeof(float), stream,
         false, args);
}

void sigmoid_gate(const SigmoidGateArgs& args, Stream stream) {
  const dim3 grid(ceil_div(args.count, kThreads));
  if (args.out_type == Element::bf16) {
    launch("sigmoid_gate", sigmoid_gate_kernel<bf16>, grid, kThreads, 0, stream, false, args.x,
           args.gate, static_cast<bf16*>(args.out), args.count);
  } else {
    launch("sigmoid_gate", sigmoid_gate_kernel<float>, grid, kThreads, 0, stream, false, args.x,
           args.gate, static_cast<float*>(args.out), args.count);
  }
}

void delta_gates(const DeltaGatesArgs& args, Stream stream) {
  launch("delta_gates", delta_gates_kernel, dim3(ceil_div(args.rows * args.heads, kThreads)),
         kThreads, 0, stream, false, args);
}

void gated_rms_norm(const GatedRmsNormArgs& args, Stream stream) {
  const dim3 grid(ceil_div(args.rows * args.heads, kThreads / 32));
  auto* kernel =
      args.out_type == Element::bf16 ? gated_rms_norm_kernel<bf16> : gated_rms_norm_kernel<float>;
  launch("gated_rms_norm", kernel, grid, kThreads, 0, stream, false, args);
}

void moe_add_shared(const AddSharedArgs& args, Stream stream) {
  launch("moe_add_shared", add_shared_kernel, dim3(unsigned(args.rows)), kThreads, 0, stream, false,
         args);
}

void add(const float* x, float* out, int64_t count, Stream stream) {
  launch("add", add_kernel, dim3(ceil_div(count, kThreads)), kThreads, 0, stream, false, x, out,
         count);
}

void gather_rows(const float* x, const int32_t* rows, void* out, Element out_type, int64_t num_rows,
                 int64_t n, Stream stream) {
  if (num_rows == 0) return;
  const dim3 grid(static_cast<unsigned>(num_rows));
  if (out_type == Element::bf16) {
    launch("gather_rows", gather_rows_kernel<bf16>, grid, kThreads, 0, stream, false, x, rows,
           static_cast<bf16*>(out), n);
  } else {
    launch("gather_rows", gather_rows_kernel<float>, grid, kThreads, 0, stream, false, x, rows,
           static_cast<float*>(out), n);
  }
}

bool has_code_for_device() {
  cudaFuncAttributes attributes;
  const bool found = cudaFuncGetAttributes(&attributes, random_bytes_kernel) == cudaSuccess;
  if (!found) (void)cudaGetLastError();
  return found;
}

void fill_random_bytes(void* out, size_t bytes, uint64_t seed, uint64_t keep, uint64_t add_bits,
                       Stream stream) {
  const size_t words = (bytes + 7) / 8;
  launch("random_bytes", random_bytes_kernel, dim3(ceil_div(int64_t(words), kThreads)), kThreads, 0,
         stream, false, static_cast<uint64_t*>(out), words, seed, keep, add_bits);
}

}  // namespace nibble::cuda
