// Cuts many sequences into packed steps: which rows of which sequence run together.
//
// Sequences go in order, several share a step, and one that does not fit goes on in the next; cuts
// lie on the 64-token grid, so a sequence's bits do not depend on its company (design: where a
// sequence is cut). A sequence's pages and state slot follow from its number, see piece_slot().
#pragma once

#include "eval/sequences.h"
#include "runtime/executor.h"

#include <cstdint>
#include <span>
#include <vector>

namespace nibble::eval {

/// Rows [begin, end) of one sequence.
struct StepPiece {
  int32_t sequence = 0;
  int32_t begin = 0;
  int32_t end = 0;

  int32_t rows() const { return end - begin; }
};
using StepPieces = std::vector<StepPiece>;

/// At most max_rows rows (>= 64) and max_sequences sequences a step. Every sequence has a row.
std::vector<StepPieces> cut_in_chunks(std::span<const ScoredSequence> sequences, int32_t max_rows,
                                      int32_t max_sequences);

/// Token by token: every step advances up to max_sequences sequences by one row.
std::vector<StepPieces> cut_in_single_rows(std::span<const ScoredSequence> sequences,
                                           int32_t max_sequences);

/// Whose logits a step asks for.
enum class LogitRows { none, scored };

/// Writes steps for the pieces: sequences of a step lie at most capacity.sequences apart, so
/// sequence i uses state slot i % capacity.sequences and that slot's run of pages.
class StepWriter {
 public:
  explicit StepWriter(const runtime::StepCapacity& capacity);

  static int32_t pages_needed(const runtime::StepCapacity& capacity) {
    return capacity.sequences * capacity.pages_per_sequence;
  }

  /// Rows of single-row pieces run in decode form, but for a sequence's first; all others as
  /// prefill. The reference is good until the next call.
  const runtime::Step& write(std::span<const ScoredSequence> sequences, const StepPieces& pieces,
                             device::SequenceKind kind, LogitRows logit_rows);

 private:
  void append(const ScoredSequence& sequence, const StepPiece& piece, device::SequenceKind kind,
              LogitRows logit_rows);

  const runtime::StepCapacity capacity_;
  std::vector<int32_t> pages_;  // 0, 1, 2, ...
  runtime::Step step_;
};

}  // namespace nibble::eval
