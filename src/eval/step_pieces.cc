#include "eval/step_pieces.h"

#include "base/check.h"
#include "runtime/step_builder.h"

#include <algorithm>
#include <numeric>

namespace nibble::eval {

std::vector<StepPieces> cut_in_chunks(std::span<const ScoredSequence> sequences, int32_t max_rows,
                                      int32_t max_sequences) {
  NIBBLE_CHECK(max_rows >= device::kPageTokens && max_sequences >= 1, "step", max_rows,
               max_sequences);
  std::vector<StepPieces> steps;
  StepPieces current;
  int32_t used = 0;
  const auto flush = [&] {
    if (!current.empty()) steps.push_back(std::move(current));
    current.clear();
    used = 0;
  };
  for (size_t i = 0; i < sequences.size(); ++i) {
    const int32_t rows = sequences[i].rows();
    NIBBLE_CHECK(rows >= 1, "sequence without rows", i);
    for (int32_t begin = 0; begin < rows;) {
      const int32_t room = max_rows - used;
      const int32_t left = rows - begin;
      const int32_t take = left <= room ? left : room / device::kPageTokens * device::kPageTokens;
      if (take > 0) current.push_back({static_cast<int32_t>(i), begin, begin + take});
      begin += take;
      used += take;
      if (take < left || static_cast<int32_t>(current.size()) == max_sequences) flush();
    }
  }
  flush();
  return steps;
}

std::vector<StepPieces> cut_in_single_rows(std::span<const ScoredSequence> sequences,
                                           int32_t max_sequences) {
  std::vector<StepPieces> steps;
  const auto width = static_cast<size_t>(max_sequences);
  for (size_t first = 0; first < sequences.size(); first += width) {
    const size_t last = std::min(sequences.size(), first + width);
    for (int32_t row = 0;; ++row) {
      StepPieces step;
      for (size_t i = first; i < last; ++i) {
        if (row < sequences[i].rows()) step.push_back({static_cast<int32_t>(i), row, row + 1});
      }
      if (step.empty()) break;
      steps.push_back(std::move(step));
    }
  }
  return steps;
}

StepWriter::StepWriter(const runtime::StepCapacity& capacity)
    : capacity_(capacity),
      pages_(static_cast<size_t>(pages_needed(capacity))),
      step_(runtime::make_step(capacity)) {
  std::iota(pages_.begin(), pages_.end(), 0);
}

const runtime::Step& StepWriter::write(std::span<const ScoredSequence> sequences,
                                       const StepPieces& pieces, device::SequenceKind kind,
                                       LogitRows logit_rows) {
  step_.token_ids.clear();
  step_.positions.clear();
  step_.sequences.clear();
  step_.pages.clear();
  step_.logit_rows.clear();
  for (const StepPiece& piece : pieces) {
    append(sequences[static_cast<size_t>(piece.sequence)], piece, kind, logit_rows);
  }
  return step_;
}

void StepWriter::append(const ScoredSequence& sequence, const StepPiece& piece,
                        device::SequenceKind kind, LogitRows logit_rows) {
  const auto first_row = static_cast<int32_t>(step_.token_ids.size());
  const int32_t slot = piece.sequence % capacity_.sequences;
  const bool fresh = piece.begin == 0;
  step_.sequences.push_back({fresh ? device::SequenceKind::prefill : kind, first_row, piece.rows(),
                             piece.end, fresh ? device::kZeroState : slot, slot});
  const auto per_slot = static_cast<size_t>(capacity_.pages_per_sequence);
  const auto pages =
      static_cast<size_t>((piece.end + device::kPageTokens - 1) / device::kPageTokens);
  step_.pages.push_back(
      std::span<const int32_t>(pages_).subspan(static_cast<size_t>(slot) * per_slot, pages));
  for (int32_t row = piece.begin; row < piece.end; ++row) {
    if (logit_rows == LogitRows::scored && row >= sequence.first_scored - 1) {
      step_.logit_rows.push_back(static_cast<int32_t>(step_.token_ids.size()));
    }
    step_.token_ids.push_back(sequence.tokens[static_cast<size_t>(row)]);
    step_.positions.insert(step_.positions.end(), 3, row);
  }
}

}  // namespace nibble::eval
