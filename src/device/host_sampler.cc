#include "device/host_sampler.h"

#include "base/check.h"
#include "base/rng.h"
#include "base/thread_pool.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

namespace nibble::device {

namespace {

constexpr float kGreedyBelow = 1e-5f;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr int64_t kBlock = 64;  // ids per entry of block_max_
constexpr uint32_t kDigits = 2048;  // of a round of the selection by weight
constexpr int64_t kLanes = 16;  // independent chains, so that the compiler vectorises a reduction

size_t block_count(int64_t ids) {
  return static_cast<size_t>((ids + kBlock - 1) / kBlock);
}

/// exp(x) for x <= 0 within 2 ulp, 0 below -87. Plain operations, so loops over it vectorise and
/// every compiler gives the same bits. Cody-Waite reduction by ln 2, then the Taylor polynomial.
inline float exp_of_nonpositive(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr uint32_t kLowest = std::bit_cast<uint32_t>(-87.0f);
  // Among values <= 0, larger bits are smaller values. A mask and no branch: compilers will not
  // turn a float comparison into a selection in a loop.
  const uint32_t keep = std::bit_cast<uint32_t>(x) <= kLowest ? ~uint32_t{0} : 0;
  const auto clamped = std::bit_cast<float>(std::bit_cast<uint32_t>(x) & keep);
  const float shifted = clamped * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const uint32_t exponent = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound);
  return std::bit_cast<float>((std::bit_cast<uint32_t>(p) + (exponent << 23)) & keep);
}

/// Largest of x[0..n) and, added to `poison`, a NaN if one of them is not finite.
float block_maximum(const float* x, int64_t n, float& poison) {
  float largest = kMinusInfinity;
  float spoiled = 0.0f;
  if (n == kBlock) {
    float lane[kLanes];
    float zero[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) {
      lane[j] = x[j];
      zero[j] = x[j] * 0.0f;
    }
    for (int64_t i = kLanes; i < kBlock; i += kLanes) {
      for (int64_t j = 0; j < kLanes; ++j) {
        lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
        zero[j] += x[i + j] * 0.0f;
      }
    }
    for (int64_t j = 0; j < kLanes; ++j) {
      largest = lane[j] > largest ? lane[j] : largest;
      spoiled += zero[j];
    }
  } else {
    for (int64_t i = 0; i < n; ++i) {
      largest = x[i] > largest ? x[i] : largest;
      spoiled += x[i] * 0.0f;
    }
  }
  poison += spoiled;
  return largest;
}

/// weights[i] = exp((x[i] - max) * inverse_temperature); returns their sum. n <= kBlock.
double exp_block(const float* x, int64_t n, float max, float inverse_temperature, float* weights) {
  for (int64_t i = 0; i < n; ++i) {
    weights[i] = exp_of_nonpositive((x[i] - max) * inverse_temperature);
  }
  double sum = 0.0;
  if (n == kBlock) {
    float lane[kLanes] = {};
    for (int64_t i = 0; i < kBlock; i += kLanes) {
      for (int64_t j = 0; j < kLanes; ++j) lane[j] += weights[i + j];
    }
    for (const float partial : lane) sum += static_cast<double>(partial);
  } else {
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(weights[i]);
  }
  return sum;
}

int32_t count_above(const float* x, int64_t n, float value) {
  int32_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += x[i] > value ? 1 : 0;
  return count;
}

void apply_mask(const uint64_t* allowed, int64_t limit, float* logits) {
  for (int64_t first = 0; first < limit; first += 64) {
    const uint64_t word = allowed[first / 64];
    if (word == ~uint64_t{0}) continue;
    const int64_t last = std::min(limit, first + 64);
    for (int64_t i = first; i < last; ++i) {
      if ((word >> (i - first) & 1) == 0) logits[i] = kMinusInfinity;
    }
  }
}

void apply_penalties(const SampleRow& row, int64_t limit, float* logits) {
  for (int32_t i = 0; i < row.num_counts; ++i) {
    const TokenCount& seen = row.counts[i];
    if (seen.token < 0 || seen.token >= limit) continue;
    float& logit = logits[seen.token];
    logit = logit > 0.0f ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    if (seen.output_count == 0) continue;
    logit -= row.frequency_penalty * static_cast<float>(seen.output_count);
    logit -= row.presence_penalty;
  }
}

bool changes_logits(const SampleRow& row) {
  const bool penalised = row.repetition_penalty != 1.0f || row.presence_penalty != 0.0f ||
                         row.frequency_penalty != 0.0f;
  return row.allowed != nullptr || row.num_bias > 0 || (penalised && row.num_counts > 0);
}

}  // namespace

RowSampler::RowSampler(int64_t vocab_size)
    : changed_(static_cast<size_t>(vocab_size)),
      weights_(static_cast<size_t>(vocab_size)),
      block_max_(block_count(vocab_size)),
      selection_(static_cast<size_t>(vocab_size)),
      block_sums_(block_count(vocab_size)),
      candidates_(static_cast<size_t>(vocab_size)),
      reordered_(static_cast<size_t>(vocab_size)) {}

size_t RowSampler::scratch_bytes(int64_t vocab_size) {
  return static_cast<size_t>(vocab_size) * (3 * sizeof(float) + 2 * sizeof(Candidate)) +
         block_count(vocab_size) * (sizeof(float) + sizeof(double));
}

SampleResult RowSampler::sample_row(const float* logits, const SampleRow& row,
                                    int32_t vocab_limit) {
  NIBBLE_CHECK(vocab_limit > 0 && static_cast<size_t>(vocab_limit) <= weights_.size(),
               "vocab_limit outside the vocabulary", vocab_limit, weights_.size());
  limit_ = vocab_limit;
  SampleResult result;
  const Scan raw = scan(logits);
  result.finite = raw.finite;
  if (!raw.finite) return result;

  if (row.forced_token >= 0) {
    NIBBLE_CHECK(row.forced_token < vocab_limit, "forced token outside the vocabulary",
                 row.forced_token, vocab_limit);
    result.token = row.forced_token;
  } else {
    const float* changed = apply_changes(logits, row);
    const float max = changed == logits ? raw.max : scan(changed).max;
    if (max == kMinusInfinity) return result;
    result.token =
        row.temperature < kGreedyBelow ? first_of(changed, max) : draw(changed, max, row);
  }
  if (row.top_logprobs >= 0) add_logprobs(logits, raw.max, row, result);
  return result;
}

/// Fills block_max_; the one pass over the logits that greedy sampling needs.
RowSampler::Scan RowSampler::scan(const float* logits) {
  Scan result{kMinusInfinity, true};
  float poison = 0.0f;
  for (int64_t first = 0; first < limit_; first += kBlock) {
    const float largest = block_maximum(logits + first, std::min(kBlock, limit_ - first), poison);
    block_max_[static_cast<size_t>(first / kBlock)] = largest;
    result.max = largest > result.max ? largest : result.max;
  }
  result.finite = poison == 0.0f;
  return result;
}

/// Lowest id whose logit is `value`, which must be the maximum that scan() found.
int32_t RowSampler::first_of(const float* logits, float value) const {
  int64_t block = 0;
  while (block_max_[static_cast<size_t>(block)] != value) ++block;
  int64_t id = block * kBlock;
  while (logits[id] != value) ++id;
  return static_cast<int32_t>(id);
}

/// The logits after mask, bias and penalties: `logits` itself where nothing changes them.
const float* RowSampler::apply_changes(const float* logits, const SampleRow& row) {
  if (!changes_logits(row)) return logits;
  float* changed = changed_.data();
  std::memcpy(changed, logits, static_cast<size_t>(limit_) * sizeof(float));
  if (row.allowed != nullptr) apply_mask(row.allowed, limit_, changed);
  for (int32_t i = 0; i < row.num_bias; ++i) {
    const LogitBias& bias = row.bias[i];
    if (bias.token >= 0 && bias.token < limit_) changed[bias.token] += bias.bias;
  }
  apply_penalties(row, limit_, changed);
  return changed;
}

/// A value that at least `count` logits reach, from the block maxima alone.
float RowSampler::lower_bound_of_largest(size_t count) {
  const size_t blocks = block_count(limit_);
  if (count > blocks) return kMinusInfinity;
  std::copy_n(block_max_.begin(), blocks, selection_.begin());
  const auto nth = selection_.begin() + static_cast<std::ptrdiff_t>(count - 1);
  std::nth_element(selection_.begin(), nth,
                   selection_.begin() + static_cast<std::ptrdiff_t>(blocks), std::greater<>());
  return *nth;
}

float RowSampler::kth_largest(const float* logits, int32_t k) {
  const float bound = lower_bound_of_largest(static_cast<size_t>(k));
  size_t found = 0;
  for (int64_t first = 0; first < limit_; first += kBlock) {
    if (block_max_[static_cast<size_t>(first / kBlock)] < bound) continue;
    const int64_t last = std::min(limit_, first + kBlock);
    for (int64_t i = first; i < last; ++i) {
      if (logits[i] >= bound) selection_[found++] = logits[i];
    }
  }
  const auto nth = selection_.begin() + (k - 1);
  std::nth_element(selection_.begin(), nth, selection_.begin() + static_cast<std::ptrdiff_t>(found),
                   std::greater<>());
  return *nth;
}

/// Temperature, min-p, top-k, top-p, draw. block_max_ must be that of `logits`.
int32_t RowSampler::draw(const float* logits, float max, const SampleRow& row) {
  const bool has_top_k = row.top_k > 0 && row.top_k < limit_;
  if (has_top_k || row.min_p > 0.0f) {
    const float lowest = has_top_k ? kth_largest(logits, row.top_k) : kMinusInfinity;
    const size_t count = gather_from(logits, max, lowest, row);
    return draw_candidate(count, mass_of(candidates(count)), row);
  }
  const double total = weigh_all(logits, max, 1.0f / row.temperature);
  if (row.top_p >= 1.0f) return draw_weighed(first_of(logits, max), total, row);
  // Tokens below this weight hold less than (1 - top_p) of the mass together, so the head set lies
  // among the others.
  const double least = (1.0 - static_cast<double>(row.top_p)) * total / static_cast<double>(limit_);
  return draw_candidate(gather_weighed(least), total, row);
}

/// Fills weights_ and block_sums_; returns the sum of all weights.
double RowSampler::weigh_all(const float* logits, float max, float inverse_temperature) {
  double total = 0.0;
  for (int64_t first = 0; first < limit_; first += kBlock) {
    const double sum = exp_block(logits + first, std::min(kBlock, limit_ - first), max,
                                 inverse_temperature, weights_.data() + first);
    block_sums_[static_cast<size_t>(first / kBlock)] = sum;
    total += sum;
  }
  return total;
}

/// Collects the tokens with logit >= lowest and weight >= min_p (the largest weight is 1).
size_t RowSampler::gather_from(const float* logits, float max, float lowest, const SampleRow& row) {
  const float inverse_temperature = 1.0f / row.temperature;
  // A little below the exact min-p bound, so that whole blocks can be skipped; the weight decides.
  if (row.min_p > 0.0f) {
    lowest = std::max(lowest, max + row.temperature * (std::log(row.min_p) - 1e-3f) - 1e-3f);
  }
  size_t found = 0;
  for (int64_t first = 0; first < limit_; first += kBlock) {
    if (block_max_[static_cast<size_t>(first / kBlock)] < lowest) continue;
    const int64_t last = std::min(limit_, first + kBlock);
    for (int64_t i = first; i < last; ++i) {
      if (!(logits[i] >= lowest)) continue;
      const float weight = exp_of_nonpositive((logits[i] - max) * inverse_temperature);
      if (weight < row.min_p) continue;
      candidates_[found++] = {weight, static_cast<int32_t>(i)};
    }
  }
  return found;
}

/// Collects the tokens whose entry of weights_ is at least `least`.
size_t RowSampler::gather_weighed(double least) {
  size_t found = 0;
  for (int64_t i = 0; i < limit_; ++i) {
    const float weight = weights_[static_cast<size_t>(i)];
    if (static_cast<double>(weight) >= least) {
      candidates_[found++] = {weight, static_cast<int32_t>(i)};
    }
  }
  return found;
}

double RowSampler::mass_of(std::span<const Candidate> tokens) {
  double mass = 0.0;
  for (const Candidate& token : tokens) mass += static_cast<double>(token.weight);
  return mass;
}

bool RowSampler::heavier(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

/// The last token of the smallest head set (heaviest first, ties by id) that holds `mass`: a radix
/// selection, since positive floats order as their bits do. In double the order of adding changes
/// nothing as long as the weights, of 24 bits, are not below 2^-28 of their sum.
RowSampler::Candidate RowSampler::cut_at_mass(size_t count, double mass) {
  std::copy_n(candidates_.begin(), count, reordered_.begin());
  double before = 0.0;  // of the tokens that are heavier than all that are left
  for (const int shift : {20, 10, 0}) {
    const auto digit = [shift](const Candidate& token) {
      return std::bit_cast<uint32_t>(token.weight) >> shift & (kDigits - 1);
    };
    // Two sums a digit: neighbours that share one do not wait for each other.
    double sums[2][kDigits] = {};
    uint32_t lowest = kDigits - 1;
    for (size_t i = 0; i < count; ++i) {
      const uint32_t d = digit(reordered_[i]);
      sums[i & 1][d] += static_cast<double>(reordered_[i].weight);
      lowest = std::min(lowest, d);
    }
    uint32_t cut = kDigits - 1;
    for (; cut > lowest && before + sums[0][cut] + sums[1][cut] < mass; --cut) {
      before += sums[0][cut] + sums[1][cut];
    }
    const auto last =
        std::remove_if(reordered_.begin(), reordered_.begin() + static_cast<std::ptrdiff_t>(count),
                       [&](const Candidate& token) { return digit(token) != cut; });
    count = static_cast<size_t>(last - reordered_.begin());
    if (count == 1) break;
  }
  // Equal weights, rising ids.
  size_t at = 0;
  while (at + 1 < count && (before += static_cast<double>(reordered_[at].weight)) < mass) ++at;
  return reordered_[at];
}

/// Applies top-p to candidates_[0..count) and draws. `total` is the mass that top_p is a share of.
int32_t RowSampler::draw_candidate(size_t count, double total, const SampleRow& row) {
  size_t kept = count;
  if (row.top_p < 1.0f) {
    const Candidate cut = cut_at_mass(count, static_cast<double>(row.top_p) * total);
    kept = 0;
    for (const Candidate& token : candidates(count)) {
      if (!heavier(cut, token)) candidates_[kept++] = token;
    }
  }
  const std::span<const Candidate> tokens = candidates(kept);
  double target = random_unit(row.seed, row.draw_index) * mass_of(tokens);
  for (const Candidate& token : tokens) {
    target -= static_cast<double>(token.weight);
    if (target < 0.0) return token.token;
  }
  return std::min_element(tokens.begin(), tokens.end(), heavier)->token;
}

/// Draws from weights_; `fallback` where rounding leaves nothing.
int32_t RowSampler::draw_weighed(int32_t fallback, double total, const SampleRow& row) const {
  double target = random_unit(row.seed, row.draw_index) * total;
  int64_t first = 0;
  while (first + kBlock < limit_ && target >= block_sums_[static_cast<size_t>(first / kBlock)]) {
    target -= block_sums_[static_cast<size_t>(first / kBlock)];
    first += kBlock;
  }
  const int64_t last = std::min(limit_, first + kBlock);
  for (int64_t i = first; i < last; ++i) {
    const float weight = weights_[static_cast<size_t>(i)];
    if (weight > 0.0f) fallback = static_cast<int32_t>(i);
    target -= static_cast<double>(weight);
    if (target < 0.0) break;
  }
  return fallback;
}

/// Logprob, rank and top-n of the raw logits. Reorders nothing that a caller still needs.
void RowSampler::add_logprobs(const float* logits, float max, const SampleRow& row,
                              SampleResult& result) {
  double sum = 0.0;
  for (int64_t first = 0; first < limit_; first += kBlock) {
    float weights[kBlock];
    sum += exp_block(logits + first, std::min(kBlock, limit_ - first), max, 1.0f, weights);
  }
  const double log_sum = static_cast<double>(max) + std::log(sum);
  result.logprob = static_cast<float>(static_cast<double>(logits[result.token]) - log_sum);
  result.rank = count_above(logits, limit_, logits[result.token]);
  if (row.top_logprobs > 0) add_top(logits, row.top_logprobs, log_sum, result);
}

void RowSampler::add_top(const float* logits, int32_t count, double log_sum, SampleResult& result) {
  NIBBLE_CHECK(count <= kMaxTopLogprobs, "top_logprobs", count);
  scan(logits);  // block_max_ may be that of the changed logits
  count = static_cast<int32_t>(std::min<int64_t>(count, limit_));
  const float bound = lower_bound_of_largest(static_cast<size_t>(count));
  size_t found = 0;
  for (int64_t i = 0; i < limit_; ++i) {
    if (logits[i] >= bound) candidates_[found++] = {logits[i], static_cast<int32_t>(i)};
  }
  std::partial_sort(candidates_.begin(), candidates_.begin() + count,
                    candidates_.begin() + static_cast<std::ptrdiff_t>(found), heavier);
  result.num_top = count;
  for (int32_t i = 0; i < count; ++i) {
    const Candidate& top = candidates_[static_cast<size_t>(i)];
    result.top_tokens[i] = top.token;
    result.top_logprobs[i] = static_cast<float>(static_cast<double>(top.weight) - log_sum);
  }
}

HostSampler::HostSampler(int64_t vocab_size, int num_workers) : vocab_size_(vocab_size) {
  workers_.reserve(static_cast<size_t>(num_workers));
  for (int i = 0; i < num_workers; ++i) workers_.emplace_back(vocab_size);
}

size_t HostSampler::bytes(int64_t vocab_size, int num_workers) {
  return RowSampler::scratch_bytes(vocab_size) * static_cast<size_t>(num_workers);
}

void HostSampler::run(const SamplePlan& plan, ConstTensorView logits, SampleResult* results,
                      ThreadPool& pool) {
  NIBBLE_CHECK(logits.dtype() == DType::f32 && logits.row_elements() == vocab_size_,
               "logits are [rows][vocab_size] f32", logits.row_elements(), vocab_size_);
  NIBBLE_CHECK(static_cast<size_t>(pool.num_threads()) <= workers_.size(),
               "more threads than sampler workers", pool.num_threads(), workers_.size());
  const float* first = logits.as<float>();
  pool.parallel_for(plan.num_rows, [&](int64_t i, int worker) {
    const SampleRow& row = plan.rows[i];
    NIBBLE_CHECK(row.logits_row >= 0 && row.logits_row < logits.rows(), "logits_row",
                 row.logits_row, logits.rows());
    results[i] = workers_[static_cast<size_t>(worker)].sample_row(
        first + row.logits_row * vocab_size_, row, plan.vocab_limit);
  });
}

}  // namespace nibble::device
