// ModelSession: everything under a running model, put together in order: device, source, memory
// plan, weights, executor.
//
// The composition root's first half; serve and chat add text and an engine, eval and bench drive
// the executor themselves. Members are declared in the order they depend on each other, so
// destruction is safe.
#pragma once

#include "base/result.h"
#include "base/thread_pool.h"
#include "cli/options.h"
#include "device/device.h"
#include "formats/checkpoint.h"
#include "model/loaded_model.h"
#include "model/weight_source.h"
#include "runtime/engine.h"
#include "runtime/memory_plan.h"
#include "runtime/model_executor.h"

#include <memory>
#include <optional>
#include <string>

namespace nibble::cli {

/// What a command needs where the user left a limit at auto.
struct SessionNeeds {
  int32_t max_num_seqs = 8;
  int32_t max_num_batched_tokens = 2048;
  int32_t max_model_len = 0;  // 0: as the model and the memory allow
  bool logits_of_all_rows = false;  // perplexity: room for the logits of every row of a step
  int32_t vocab_limit = 0;  // ids below it may be sampled; 0: the whole vocabulary
};

class ModelSession {
 public:
  /// Loads with progress on standard error; prints what the memory plan had to adjust.
  static Result<std::unique_ptr<ModelSession>> open(const ModelOptions& options,
                                                    const SessionNeeds& needs);

  const formats::ModelConfig& config() const { return source_->config(); }
  device::Device& device() { return *device_; }
  model::WeightSource& source() { return *source_; }
  const model::ModelWeights& weights() const { return model_->weights(); }
  runtime::ModelExecutor& executor() { return *executor_; }
  const runtime::EngineLimits& limits() const { return limits_; }
  const runtime::StepCapacity& capacity() const { return capacity_; }
  const runtime::MemoryPlan& memory_plan() const { return plan_; }
  DType kv_dtype() const { return kv_dtype_; }
  size_t packed_weight_bytes() const { return packed_weight_bytes_; }
  /// Reading and packing all weights.
  double load_seconds() const { return load_seconds_; }

 private:
  ModelSession() = default;
  Result<void> open_device(const ModelOptions& options);
  Result<void> open_source(const ModelOptions& options);
  Result<void> choose_kv_dtype(const ModelOptions& options);
  Result<void> plan(const ModelOptions& options, const SessionNeeds& needs);
  Result<void> load();

  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<device::Device> device_;
  std::optional<formats::Checkpoint> checkpoint_;
  std::unique_ptr<model::WeightSource> source_;
  DType kv_dtype_ = DType::bf16;
  runtime::EngineLimits limits_;
  runtime::StepCapacity capacity_;
  runtime::MemoryPlan plan_;
  size_t packed_weight_bytes_ = 0;
  double load_seconds_ = 0;
  std::unique_ptr<model::LoadedModel> model_;
  std::unique_ptr<runtime::ModelExecutor> executor_;
};

/// The kernel threads a command runs on: `threads`, or one per physical core when 0.
std::unique_ptr<ThreadPool> make_thread_pool(int threads);

/// What --device means on this machine: the number of a GPU, or nothing for the CPU. auto: the
/// first GPU if there is one and the arithmetic is `exact`. Errors: invalid_argument.
Result<std::optional<int>> chosen_gpu(const std::string& device, const std::string& arithmetic);

struct DeviceChoice {
  std::string device = "cpu";
  std::string arithmetic = "exact";
  int threads = 0;  // 0: one per physical core
  std::string activations = "full";
};
DeviceChoice device_choice(const ModelOptions& options);

/// A device for commands that only compute (quantize).
struct ComputeDevice {
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<device::Device> device;
};
Result<ComputeDevice> make_compute_device(const DeviceChoice& choice);

}  // namespace nibble::cli
