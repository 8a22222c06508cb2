// One scored position under two models: divergence, both likelihoods, ranks.
//
// KLD = sum over the vocabulary of P (ln P - ln Q), P the base: no term left out (spec
// eval.md 3.1). A term with P = 0 is 0; Q = 0 where P > 0 gives +inf, never NaN. Pure functions,
// any thread.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace nibble::eval {

/// Log-probabilities of one position: ln P(v) = values[v] - log_sum.
struct LogProbRow {
  std::span<const float> values;
  double log_sum = 0;

  double ln(int32_t v) const {
    return static_cast<double>(values[static_cast<size_t>(v)]) - log_sum;
  }
};

/// The softmax of a row of logits.
LogProbRow normalized(std::span<const float> logits);

struct PositionRecord {
  double kld = 0;
  double nll = 0, base_nll = 0;  // of the true token
  double entropy = 0;  // of the base
  int32_t sequence = 0, position = 0;  // of the true token in its sequence
  int32_t token = 0;  // the true token
  int32_t top = 0, base_top = 0;  // arg-max; ties: the lowest id
  int32_t rank = 1;  // of the base's arg-max under the model, 1 is best
  int32_t top5_overlap = 0;  // common members of the best five

  double probability() const;
  double base_probability() const;
};

/// The best `count` ids, best first, ties by id; fewer if the row is shorter.
std::vector<int32_t> best_ids(std::span<const float> values, size_t count);

/// Terms with ln P <= least_ln_p are left out: -infinity leaves out none.
PositionRecord compare_position(const LogProbRow& base, const LogProbRow& model, int32_t token,
                                double least_ln_p = -std::numeric_limits<double>::infinity());

/// The base's entries at -inf form one bucket of mass exp(ln_rest): never more than the divergence
/// of the full rows. The kept entries and the bucket are normalized together.
PositionRecord compare_with_rest(std::span<const float> base_ln_p, double ln_rest,
                                 const LogProbRow& model, int32_t token);

/// A base that keeps only its best entries and the mass of all others.
struct TopEntries {
  std::vector<int32_t> ids;  // ascending
  std::vector<float> ln_p;  // of ids
  float ln_rest = 0;  // ln of the mass of all other ids; -inf if none
  float token_ln_p = 0;  // of the true token
  float entropy = 0;
};

/// Over the kept entries and one bucket for the rest: never more than the full divergence.
PositionRecord compare_top_entries(const TopEntries& base, const LogProbRow& model, int32_t token);

}  // namespace nibble::eval
