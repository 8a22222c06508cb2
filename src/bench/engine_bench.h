// EngineBench: times prefill and decode steps on an executor and counts the bytes they had to read.
//
// What bench engine runs. One untimed repetition first. Prefill goes in steps of the capacity's
// rows; decode advances every sequence by one token a step, feeding random ids so that routing is
// spread whatever the weights.
#pragma once

#include "base/result.h"
#include "device/device.h"
#include "model/weight_source.h"
#include "runtime/model_executor.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace nibble::bench {

/// One of prompt_tokens and generated_tokens is above 0.
struct EngineTest {
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  int64_t depth = 0;  // tokens already in the context, untimed
  int64_t sequences = 1;  // side by side
};

struct Spread {
  double min = 0, median = 0, max = 0;
  std::vector<double> samples;
};

struct EngineTestResult {
  Spread tokens_per_second;  // of all sequences together
  int64_t bytes_per_step = 0;  // mean of the timed steps: weights, states, KV
  double gigabytes_per_second = 0;  // bytes of all timed steps over their median time
  int64_t min_distinct_experts = 0;  // in one layer, over the timed part of a repetition
  double mean_distinct_experts = 0;  // per layer and step
  double step_seconds = 0;  // mean of a timed step
  double watts = 0;  // from the first timed repetition to the last; 0: no meter, or under a second
  std::vector<runtime::BlockTime> blocks;  // of the last step's shape
};

/// Bytes read by one step, piece by piece.
struct ReadCosts {
  int64_t dense_bytes = 0;  // weights every step reads, lm_head apart
  int64_t head_bytes = 0;  // lm_head, read when logits are wanted
  int64_t expert_bytes = 0;  // one routed expert of one layer
  int64_t state_bytes = 0;  // recurrent states and windows of one sequence, read and written
  int64_t kv_token_bytes = 0;  // KV of one token in all layers
};

ReadCosts read_costs(const device::Device& device, const model::WeightSource& source,
                     DType kv_dtype);

class EngineBench {
 public:
  /// All are used and outlive the bench. Errors: exhausted.
  static Result<std::unique_ptr<EngineBench>> create(runtime::ModelExecutor& executor,
                                                     device::Device& device,
                                                     const formats::ModelConfig& config,
                                                     const runtime::StepCapacity& capacity,
                                                     const ReadCosts& costs);
  ~EngineBench();

  /// Errors: internal when a logit is not finite; cancelled when `go_on` says no between steps.
  /// joules: the device's energy counter, or empty.
  Result<EngineTestResult> run(const EngineTest& test, int repetitions,
                               const std::function<bool()>& go_on,
                               const std::function<double()>& joules = {});

 private:
  EngineBench(runtime::ModelExecutor& executor, device::Device& device,
              const formats::ModelConfig& config, const runtime::StepCapacity& capacity,
              const ReadCosts& costs);

  struct Sequence {
    std::vector<int32_t> pages;
    int32_t length = 0;
  };
  struct Tally {
    double seconds = 0;
    int64_t steps = 0;
    int64_t bytes = 0;
    int64_t expert_touches = 0;  // distinct experts, summed over layers and steps
    std::vector<std::vector<bool>> touched;  // [layer][expert]
  };

  void start_sequences(int64_t count, uint64_t seed);
  Result<void> step(int32_t tokens_per_sequence, device::SequenceKind kind, bool wants_logits,
                    Tally* tally);
  Result<void> prefill(int64_t tokens, bool wants_logits, const std::function<bool()>& go_on,
                       Tally* tally);
  void count(int64_t rows, bool wants_logits, Tally& tally) const;

  runtime::ModelExecutor& executor_;
  device::Device& device_;
  const formats::ModelConfig& config_;
  const runtime::StepCapacity capacity_;
  const ReadCosts costs_;
  runtime::Step step_;
  std::vector<Sequence> sequences_;
  std::unique_ptr<device::Memory> routing_memory_;  // where the step logs it
  std::vector<int32_t> routing_log_;  // the host's copy
  std::vector<device::SampleResult> results_;
  uint64_t seed_ = 0;
  uint64_t drawn_ = 0;
};

}  // namespace nibble::bench
