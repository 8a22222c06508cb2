// Runs a checkpoint on a device without the engine: sequences, chunks and steps laid out by hand,
// for tests.
//
// Pools are small and fixed; nothing is scheduled. Every step may mix any sequences.
#pragma once

#include "base/result.h"
#include "base/thread_pool.h"
#include "device/device.h"
#include "device/observer.h"
#include "formats/checkpoint.h"
#include "model/checkpoint_source.h"
#include "model/loaded_model.h"
#include "model/qwen3_5_moe/decoder.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace nibble::test {

struct HarnessOptions {
  DType kv_dtype = DType::f32;
  int32_t max_rows = 256;
  int32_t max_tokens = 512;  // per sequence
  int32_t max_sequences = 8;
};

/// Tokens one sequence advances by in a step.
struct SequenceInput {
  int32_t sequence = 0;
  std::vector<int32_t> tokens;
  device::SequenceKind kind = device::SequenceKind::prefill;
};

class ModelHarness {
 public:
  using DeviceFactory = std::function<std::unique_ptr<device::Device>(ThreadPool&)>;

  static Result<std::unique_ptr<ModelHarness>> open(const std::string& folder,
                                                    const DeviceFactory& factory, int threads,
                                                    const HarnessOptions& options);
  /// The same with the weights of any source.
  static Result<std::unique_ptr<ModelHarness>> open(std::unique_ptr<model::WeightSource> source,
                                                    const DeviceFactory& factory, int threads,
                                                    const HarnessOptions& options);

  /// Runs one step and returns the logits of every row: [rows][V], rows in input order.
  std::vector<float> step(const std::vector<SequenceInput>& inputs,
                          device::Observer* observer = nullptr);

  /// Runs a whole prompt on a fresh sequence, in chunks of `chunk` tokens (0: one step); logits of
  /// every row.
  std::vector<float> prefill(int32_t sequence, const std::vector<int32_t>& tokens, int32_t chunk,
                             device::Observer* observer = nullptr);

  /// Forgets the sequence: the next step starts it from nothing.
  void reset(int32_t sequence) { lengths_[static_cast<size_t>(sequence)] = 0; }
  int32_t length(int32_t sequence) const { return lengths_[static_cast<size_t>(sequence)]; }

  const formats::ModelConfig& config() const { return source_->config(); }
  /// Recurrent state [value heads][dk][dv] and convolution window [columns][C] of a linear layer,
  /// as f32.
  std::vector<float> recurrent_state(int layer, int32_t sequence) const;
  std::vector<float> conv_state(int layer, int32_t sequence) const;
  /// Last `count` KV rows of a full layer: [count][kv_heads][D]; `value` picks V.
  std::vector<float> kv_tail(int layer, int32_t sequence, int32_t count, bool value) const;

 private:
  ModelHarness() = default;
  Result<void> load(const DeviceFactory& factory, int threads, const HarnessOptions& options);
  Result<void> make_caches(const HarnessOptions& options);
  /// Buffers for steps of up to `rows` rows. Steps of one shape meet the same addresses, so a
  /// device may replay them; outgrown buffers are kept, no address comes back for another use.
  void reserve_step(int32_t rows);
  /// `count` elements of device memory as f32.
  std::vector<float> read(const std::byte* data, DType dtype, int64_t count) const;

  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<device::Device> device_;
  std::unique_ptr<formats::Checkpoint> checkpoint_;
  std::unique_ptr<model::WeightSource> source_;
  std::unique_ptr<model::LoadedModel> model_;
  std::vector<std::unique_ptr<device::Memory>> cache_memory_;
  std::vector<device::LayerCache> caches_;
  struct StepMemory {
    int32_t rows = 0;
    std::byte *token_ids, *positions, *row_sequence, *sequences, *page_table, *logit_rows;
    std::byte *hidden, *logits;
  };
  StepMemory step_ = {};
  std::vector<std::unique_ptr<device::Memory>> step_memory_;
  std::vector<int32_t> lengths_;
  int32_t pages_per_sequence_ = 0;
};

}  // namespace nibble::test
