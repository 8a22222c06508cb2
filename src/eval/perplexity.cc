#include "eval/perplexity.h"

#include "runtime/step_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nibble::eval {
namespace {

// -log softmax(row)[token]: differences to the maximum in f32, everything after in double.
double negative_log_likelihood(const float* row, int64_t vocab_size, int32_t token) {
  const float largest = *std::max_element(row, row + vocab_size);
  double sum = 0;
  for (int64_t i = 0; i < vocab_size; ++i) sum += std::exp(static_cast<double>(row[i] - largest));
  return std::log(sum) - static_cast<double>(row[token] - largest);
}

}  // namespace

double NllSum::perplexity() const {
  return std::exp(mean());
}

double NllSum::perplexity_error() const {
  if (tokens < 2) return 0;
  const double variance = sum_of_squares / static_cast<double>(tokens) - mean() * mean();
  return perplexity() * std::sqrt(std::max(0.0, variance) / static_cast<double>(tokens - 1));
}

SequenceScorer::SequenceScorer(runtime::ModelExecutor& executor, device::Device& device,
                               const runtime::StepCapacity& capacity, int64_t vocab_size)
    : executor_(executor),
      device_(device),
      capacity_(capacity),
      vocab_size_(vocab_size),
      step_(runtime::make_step(capacity)),
      pages_(static_cast<size_t>(capacity.pages_per_sequence)),
      logits_(static_cast<size_t>(capacity.logit_rows * vocab_size)) {
  NIBBLE_CHECK(capacity.logit_rows == capacity.rows, "logits of every row", capacity.logit_rows);
  std::iota(pages_.begin(), pages_.end(), 0);
}

// Runs rows [begin, end) of the sequence; their logits are then in logits_.
Result<void> SequenceScorer::run_rows(std::span<const int32_t> tokens, int64_t begin, int64_t end) {
  const auto rows = static_cast<int32_t>(end - begin);
  step_.token_ids.assign(tokens.begin() + begin, tokens.begin() + end);
  step_.positions.clear();
  step_.logit_rows.clear();
  for (int32_t row = 0; row < rows; ++row) {
    step_.positions.insert(step_.positions.end(), 3, static_cast<int32_t>(begin) + row);
    step_.logit_rows.push_back(row);
  }
  const int32_t read_slot = begin == 0 ? device::kZeroState : 0;
  step_.sequences = {
      {device::SequenceKind::prefill, 0, rows, static_cast<int32_t>(end), read_slot, 0}};
  step_.pages = {pages_};
  NIBBLE_RETURN_IF_ERROR(executor_.run(step_, {}));
  const std::span<float> host = std::span(logits_).first(static_cast<size_t>(rows * vocab_size_));
  device_.download(std::as_writable_bytes(host), executor_.logits().data());
  device_.synchronize();
  return {};
}

Result<void> SequenceScorer::score(std::span<const int32_t> tokens, int64_t first_scored,
                                   NllSum& total) {
  const auto count = static_cast<int64_t>(tokens.size());
  // The last token is predicted, never fed.
  const int64_t rows = count - 1;
  const int64_t chunk = std::max<int64_t>(
      device::kPageTokens, capacity_.rows / device::kPageTokens * device::kPageTokens);
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t end = std::min(rows, begin + chunk);
    NIBBLE_RETURN_IF_ERROR(run_rows(tokens, begin, end));
    for (int64_t row = std::max(begin, first_scored - 1); row < end; ++row) {
      const double nll = negative_log_likelihood(logits_.data() + (row - begin) * vocab_size_,
                                                 vocab_size_, tokens[static_cast<size_t>(row + 1)]);
      if (!std::isfinite(nll)) {
        return Error{ErrorCode::internal,
                     fmt::format("the logits of position {} are not finite", row)};
      }
      total.add(nll);
    }
  }
  return {};
}

}  // namespace nibble::eval
