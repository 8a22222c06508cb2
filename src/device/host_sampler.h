// The sampler on host memory: executes device/sample_plan.h row by row, in the order of spec
// serving.md 11.
//
// One scratch per worker is taken at construction, so a step allocates nothing. A row's result
// depends on its logits, its SampleRow and vocab_limit only: never on the batch or the worker.
#pragma once

#include "device/sample_plan.h"
#include "tensor/tensor_view.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace nibble {
class ThreadPool;
}

namespace nibble::device {

/// Working memory for one row at a time; sample_row() explains the steps.
class RowSampler {
 public:
  explicit RowSampler(int64_t vocab_size);
  static size_t scratch_bytes(int64_t vocab_size);

  /// logits: [vocab_size] f32, unchanged. Ids >= vocab_limit are ignored. token is -1 if a logit
  /// below vocab_limit is not finite (finite = false), or if mask and bias leave no token (finite =
  /// true). The kept tokens are walked in ascending id, so equal logits and draws give equal tokens
  /// everywhere.
  SampleResult sample_row(const float* logits, const SampleRow& row, int32_t vocab_limit);

 private:
  struct Candidate {
    float weight;
    int32_t token;
  };
  struct Scan {
    float max = 0.0f;
    bool finite = true;
  };

  Scan scan(const float* logits);
  int32_t first_of(const float* logits, float value) const;
  const float* apply_changes(const float* logits, const SampleRow& row);
  float lower_bound_of_largest(size_t count);
  float kth_largest(const float* logits, int32_t k);
  int32_t draw(const float* logits, float max, const SampleRow& row);
  double weigh_all(const float* logits, float max, float inverse_temperature);
  size_t gather_from(const float* logits, float max, float lowest, const SampleRow& row);
  size_t gather_weighed(double least);
  static double mass_of(std::span<const Candidate> tokens);
  static bool heavier(const Candidate& a, const Candidate& b);
  Candidate cut_at_mass(size_t count, double mass);
  int32_t draw_candidate(size_t count, double total, const SampleRow& row);
  int32_t draw_weighed(int32_t fallback, double total, const SampleRow& row) const;
  void add_logprobs(const float* logits, float max, const SampleRow& row, SampleResult& result);
  void add_top(const float* logits, int32_t count, double log_sum, SampleResult& result);

  std::span<const Candidate> candidates(size_t count) const { return {candidates_.data(), count}; }

  int64_t limit_ = 0;  // vocab_limit of the current row
  std::vector<float> changed_;  // logits after mask, bias and penalties
  std::vector<float> weights_;
  std::vector<float> block_max_;
  std::vector<float> selection_;  // values that a selection may reorder
  std::vector<double> block_sums_;
  std::vector<Candidate> candidates_;  // ascending token
  std::vector<Candidate> reordered_;
};

class HostSampler {
 public:
  /// num_workers: threads of the pool that run() will be given.
  HostSampler(int64_t vocab_size, int num_workers);
  static size_t bytes(int64_t vocab_size, int num_workers);

  /// logits: [rows][vocab_size] f32 on the host; results: [plan.num_rows]. One caller at a time.
  void run(const SamplePlan& plan, ConstTensorView logits, SampleResult* results, ThreadPool& pool);

 private:
  int64_t vocab_size_;
  std::vector<RowSampler> workers_;
};

}  // namespace nibble::device
