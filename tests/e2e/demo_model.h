// For tests: the demo model of the repository on a CPU device, and engines over it.
#pragma once

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "device/cpu/cpu_device.h"
#include "formats/checkpoint.h"
#include "formats/hf_config.h"
#include "model/checkpoint_source.h"
#include "model/loaded_model.h"
#include "runtime/model_executor.h"

#include <memory>
#include <string>
#include <utility>

namespace nibble {

template <typename T>
T value_or_die(Result<T> result) {
  NIBBLE_CHECK(result.ok(), "test set-up", result.ok() ? "" : result.error().message);
  return std::move(result).value();
}

/// Owns everything below an executor.
class DemoModel {
 public:
  DemoModel(device::Arithmetic arithmetic, IsaLevel level, int threads)
      : pool_(threads, {}),
        device_(device::make_cpu_device(arithmetic, level, pool_)),
        config_(value_or_die(formats::load_model_config("models/demo"))),
        checkpoint_(value_or_die(formats::Checkpoint::open("models/demo"))),
        source_(value_or_die(model::CheckpointSource::open(checkpoint_, config_))),
        loaded_(value_or_die(
            model::LoadedModel::load(*device_, *source_, [](int, int) { return true; }))) {}

  device::Device& device() { return *device_; }
  const formats::ModelConfig& config() const { return config_; }
  const model::WeightSource& source() const { return *source_; }
  const model::ModelWeights& weights() const { return loaded_->weights(); }

  std::unique_ptr<runtime::ModelExecutor> make_executor(const runtime::EngineLimits& limits,
                                                        DType kv_dtype) {
    runtime::ModelExecutorOptions options;
    options.capacity = runtime::step_capacity(limits);
    options.num_pages = limits.num_pages;
    options.num_slots = limits.max_num_seqs;
    options.kv_dtype = kv_dtype;
    options.vocab_limit = static_cast<int32_t>(config_.vocab_size);
    return value_or_die(
        runtime::ModelExecutor::create(*device_, config_, loaded_->weights(), options));
  }

 private:
  ThreadPool pool_;
  std::unique_ptr<device::Device> device_;
  formats::ModelConfig config_;
  formats::Checkpoint checkpoint_;
  std::unique_ptr<model::CheckpointSource> source_;
  std::unique_ptr<model::LoadedModel> loaded_;
};

}  // namespace nibble
