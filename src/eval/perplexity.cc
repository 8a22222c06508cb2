#include "eval/perplexity.h"

#include "eval/softmax.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>

namespace nibble::eval {
namespace {

constexpr int32_t kFirstBucket = 256;

}  // namespace

SequenceScorer::SequenceScorer(runtime::ModelExecutor& executor, device::Device& device,
                               const runtime::StepCapacity& capacity, int64_t vocab_size)
    : executor_(executor),
      device_(device),
      capacity_(capacity),
      vocab_size_(vocab_size),
      writer_(capacity),
      logits_(static_cast<size_t>(capacity.logit_rows * vocab_size)) {
  NIBBLE_CHECK(capacity.logit_rows == capacity.rows, "logits of every row", capacity.logit_rows);
}

// Runs a step; the logits of its scored rows are then in logits_, in order.
Result<void> SequenceScorer::run(std::span<const ScoredSequence> sequences,
                                 const StepPieces& pieces) {
  const runtime::Step& step =
      writer_.write(sequences, pieces, device::SequenceKind::prefill, LogitRows::scored);
  NIBBLE_RETURN_IF_ERROR(executor_.run(step, {}));
  if (step.logit_rows.empty()) return {};
  const size_t count = step.logit_rows.size() * static_cast<size_t>(vocab_size_);
  device_.download(std::as_writable_bytes(std::span(logits_).first(count)),
                   executor_.logits().data());
  device_.synchronize();
  return {};
}

Result<void> SequenceScorer::take(const ScoredSequence& sequence, const StepPiece& piece,
                                  const float*& row, SequenceScores& scores) const {
  const auto vocab = static_cast<size_t>(vocab_size_);
  for (int32_t i = std::max(piece.begin, sequence.first_scored - 1); i < piece.end; ++i) {
    const double nll =
        negative_log_likelihood({row, vocab}, sequence.tokens[static_cast<size_t>(i) + 1]);
    if (!std::isfinite(nll)) {
      return Error{ErrorCode::internal,
                   fmt::format("sequence {}: the logits of position {} are not finite",
                               piece.sequence + 1, i)};
    }
    scores.nll.push_back(nll);
    row += vocab;
  }
  return {};
}

Result<void> SequenceScorer::score(std::span<const ScoredSequence> sequences,
                                   const Progress& progress) {
  SequenceScores scores;
  for (const StepPieces& pieces : cut_in_chunks(sequences, capacity_.rows, capacity_.sequences)) {
    NIBBLE_RETURN_IF_ERROR(run(sequences, pieces));
    const float* row = logits_.data();
    for (const StepPiece& piece : pieces) {
      const ScoredSequence& sequence = sequences[static_cast<size_t>(piece.sequence)];
      if (piece.begin == 0) scores = {sequence.first_scored, {}};
      NIBBLE_RETURN_IF_ERROR(take(sequence, piece, row, scores));
      if (piece.end < sequence.rows()) continue;
      if (!progress(static_cast<size_t>(piece.sequence), scores)) {
        return Error{ErrorCode::cancelled, "interrupted"};
      }
    }
  }
  return {};
}

size_t PositionBuckets::index_of(int32_t position) {
  return static_cast<size_t>(std::bit_width(static_cast<uint32_t>(position / kFirstBucket)));
}

void PositionBuckets::add(int32_t position, double value) {
  const size_t index = index_of(position);
  if (index >= sums_.size()) sums_.resize(index + 1);
  sums_[index].add(value);
}

std::vector<PositionBuckets::Bucket> PositionBuckets::buckets() const {
  std::vector<Bucket> out;
  for (size_t i = 0; i < sums_.size(); ++i) {
    const int32_t first = i == 0 ? 0 : kFirstBucket << (i - 1);
    out.push_back({first, (kFirstBucket << i) - 1, sums_[i]});
  }
  return out;
}

}  // namespace nibble::eval
