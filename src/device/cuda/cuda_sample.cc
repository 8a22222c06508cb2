// Sampling: greedy rows on the GPU, everything else on the host from downloaded logits.
#include "base/thread_pool.h"
#include "device/cuda/cuda_device_impl.h"
#include "kernels/cuda/greedy.h"

#include <algorithm>

namespace nibble::device {
namespace {

constexpr int kSampleThreads = 4;

/// The most likely token and its logprob answer the row.
bool is_greedy(const SampleRow& row) {
  return row.temperature == 0.0f && row.repetition_penalty == 1.0f &&
         row.presence_penalty == 0.0f && row.frequency_penalty == 0.0f && row.num_bias == 0 &&
         row.allowed == nullptr && row.forced_token < 0 && row.top_logprobs <= 0;
}

}  // namespace

void CudaDevice::sample(const SamplePlan& plan, ConstTensorView logits, SampleResult* results) {
  if (plan.num_rows == 0) return;
  bool greedy = plan.num_rows <= spec_.max_rows;
  for (int32_t i = 0; i < plan.num_rows && greedy; ++i) {
    greedy = is_greedy(plan.rows[i]) && plan.rows[i].logits_row == i;
  }
  const int64_t vocab = logits.row_elements();
  if (greedy) {
    cuda::greedy({.logits = logits.as<float>(),
                  .stride = vocab,
                  .limit = plan.vocab_limit,
                  .rows = plan.num_rows,
                  .partial = scratch_.sampling,
                  .out = static_cast<cuda::GreedyResult*>(sampled_.get())},
                 stream_.get());
    pending_ = {results, plan.num_rows};
    return;
  }
  if (host_sampler_ == nullptr) {
    sample_pool_ = std::make_unique<ThreadPool>(kSampleThreads, std::vector<int>());
    host_sampler_ = std::make_unique<HostSampler>(vocab, kSampleThreads);
  }
  host_logits_.resize(static_cast<size_t>(logits.shape().elements()));
  download(std::as_writable_bytes(std::span(host_logits_)), logits.data());
  const ConstTensorView host(reinterpret_cast<const std::byte*>(host_logits_.data()), DType::f32,
                             logits.shape());
  host_sampler_->run(plan, host, results, *sample_pool_);
}

void CudaDevice::synchronize() {
  lanes_.synchronize();
  NIBBLE_CUDA_CHECK(cudaStreamSynchronize(stream_.get()));
  const auto* sampled = static_cast<const cuda::GreedyResult*>(sampled_.get());
  for (int32_t i = 0; i < pending_.count; ++i) {
    SampleResult& result = pending_.results[i];
    result = SampleResult();
    result.finite = sampled[i].finite != 0;
    if (!result.finite) continue;
    result.token = sampled[i].token;
    result.logprob = sampled[i].logprob;
  }
  pending_ = {};
}

}  // namespace nibble::device
