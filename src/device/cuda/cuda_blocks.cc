// Captured steps and fused blocks of the CUDA device.
//
// A step in which every sequence advances by one token queues the same launches whatever its contents:
// sizes come from the plan's device buffers. Such a step is captured once per shape and replayed.
#include "device/cuda/cuda_device_impl.h"

namespace nibble::device {

void CudaDevice::run_step(const StepPlan& plan, const std::function<void()>& queue_step) {
  const bool decode = plan.num_rows == plan.num_sequences && plan.num_rows <= cuda::kMaxMmaRows;
  if (!decode || plan.observer != nullptr || plan.num_state_saves > 0 ||
      plan.override_index != nullptr) {
    queue_step();
    return;
  }
  const StepKey key{plan.token_ids, plan.routing_log, plan.num_rows, plan.num_logit_rows,
                    plan.page_table_stride};
  auto found = graphs_.find(key);
  if (found == graphs_.end()) {
    NIBBLE_CUDA_CHECK(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
    queue_step();
    CudaGraph graph;
    NIBBLE_CUDA_CHECK(cudaStreamEndCapture(stream_.get(), graph.out()));
    CudaGraphExec exec;
    NIBBLE_CUDA_CHECK(cudaGraphInstantiate(exec.out(), graph.get(), 0));
    found = graphs_.emplace(key, std::move(exec)).first;
  }
  NIBBLE_CUDA_CHECK(cudaGraphLaunch(found->second.get(), stream_.get()));
}

void CudaDevice::attention_block(const StepPlan& plan, const AttentionWeights& weights,
                                 const KvLayer& cache, ConstTensorView residual, TensorView out,
                                 Accumulate accumulate) {
  Device::attention_block(plan, weights, cache, residual, out, accumulate);
}

void CudaDevice::delta_net_block(const StepPlan& plan, const DeltaNetWeights& weights,
                                 const StateLayer& cache, ConstTensorView residual, TensorView out,
                                 Accumulate accumulate) {
  Device::delta_net_block(plan, weights, cache, residual, out, accumulate);
}

void CudaDevice::moe_block(const StepPlan& plan, const MoeWeights& weights,
                           ConstTensorView residual, TensorView out, Accumulate accumulate) {
  Device::moe_block(plan, weights, residual, out, accumulate);
}

}  // namespace nibble::device
