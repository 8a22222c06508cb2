// The Executor of a real model: caches, step buffers, decoder and sampler on one device.
//
// Takes all its memory in create(); run() allocates nothing. Weights and device belong to others
// and outlive it. Engine thread only.
#pragma once

#include "base/result.h"
#include "device/device.h"
#include "model/qwen3_5_moe/decoder.h"
#include "runtime/cache_pools.h"
#include "runtime/engine.h"
#include "runtime/executor.h"
#include "runtime/memory_plan.h"
#include "runtime/step_buffers.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace nibble::model {
class WeightSource;
}

namespace nibble::runtime {

struct ModelExecutorOptions {
  StepCapacity capacity;  // step_capacity(limits)
  int32_t num_pages = 0;
  int32_t num_slots = 0;  // max_num_seqs
  DType kv_dtype = DType::bf16;
  int32_t vocab_limit = 0;  // ids below it have a token: the tokenizer's vocab_size at most
};

/// The layers' caches of this model. weights: for the KV scales; null: all 1 (sizes only).
CacheGeometry cache_geometry(const formats::ModelConfig& config, const model::ModelWeights* weights,
                             DType kv_dtype, DType activation_dtype);

/// What plan_memory() needs to know, without reading a weight. model_max_len is
/// max_position_embeddings.
MemoryNeeds memory_needs(const device::Device& device, const model::WeightSource& source,
                         const StepCapacity& capacity, DType kv_dtype);

/// Seconds of one kind of block in all its layers.
struct BlockTime {
  const char* name;
  int layers;
  double seconds;
};

class ModelExecutor final : public Executor {
 public:
  /// Also sets the device's workspace. Errors: exhausted.
  static Result<std::unique_ptr<ModelExecutor>> create(device::Device& device,
                                                       const formats::ModelConfig& config,
                                                       const model::ModelWeights& weights,
                                                       const ModelExecutorOptions& options);

  Result<void> run(const Step& step, std::span<device::SampleResult> results) override;
  int32_t vocab_size() const override { return options_.vocab_limit; }

  /// Runs each kind of block of a step by itself, `repetitions` times over its layers without a
  /// wait in between, and returns the mean times. The caches' contents are spoiled.
  std::vector<BlockTime> time_blocks(const Step& step, int repetitions);

  /// For the following steps; null: none (device/step_plan.h).
  void set_routing_log(int32_t* log) { routing_log_ = log; }

  /// Logits of the last step [logit rows][V] f32 in device memory, until the next run().
  ConstTensorView logits() const { return last_logits_; }
  /// Bytes of caches and buffers, without the device's workspace.
  size_t bytes() const;

 private:
  double seconds_of(const device::StepPlan& plan, int repetitions,
                    const std::function<void()>& queue);
  ModelExecutor(device::Device& device, const model::ModelWeights& weights,
                const ModelExecutorOptions& options);
  Result<void> allocate(const formats::ModelConfig& config);

  device::Device& device_;
  const model::ModelWeights& weights_;
  const ModelExecutorOptions options_;
  model::Decoder decoder_;
  std::unique_ptr<CachePools> caches_;
  std::unique_ptr<StepBuffers> buffers_;
  std::unique_ptr<device::Memory> hidden_memory_, logits_memory_;
  TensorView hidden_;  // [rows][H] f32
  TensorView logits_;  // [logit rows][V] f32
  ConstTensorView last_logits_;
  int32_t* routing_log_ = nullptr;
};

}  // namespace nibble::runtime
