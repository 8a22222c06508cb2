// Tests for the packing of sequences into steps: nothing lost, cuts on the grid, slots and pages
// apart.
#include "eval/step_pieces.h"

#include <gtest/gtest.h>

#include <set>

namespace nibble::eval {
namespace {

std::vector<ScoredSequence> with_rows(const std::vector<int32_t>& rows) {
  std::vector<ScoredSequence> out;
  for (const int32_t count : rows) {
    out.push_back({std::vector<int32_t>(static_cast<size_t>(count) + 1, 7), 1});
  }
  return out;
}

void expect_complete(const std::vector<ScoredSequence>& sequences,
                     const std::vector<StepPieces>& steps, int32_t max_rows,
                     int32_t max_sequences) {
  std::vector<int32_t> done(sequences.size(), 0);
  for (const StepPieces& step : steps) {
    int32_t rows = 0;
    std::set<int32_t> slots;
    for (const StepPiece& piece : step) {
      auto& begin = done[static_cast<size_t>(piece.sequence)];
      EXPECT_EQ(piece.begin, begin);
      EXPECT_EQ(piece.begin % 64, 0);
      begin = piece.end;
      rows += piece.rows();
      EXPECT_TRUE(slots.insert(piece.sequence % max_sequences).second);
    }
    EXPECT_LE(rows, max_rows);
    EXPECT_GE(rows, 1);
    EXPECT_LE(static_cast<int32_t>(step.size()), max_sequences);
  }
  for (size_t i = 0; i < sequences.size(); ++i) EXPECT_EQ(done[i], sequences[i].rows()) << i;
}

TEST(StepPieces, ChunksHoldEveryRowOnce) {
  const auto sequences = with_rows({10, 300, 1, 64, 63, 65, 128, 500});
  for (const int32_t max_sequences : {1, 2, 4, 16}) {
    for (const int32_t max_rows : {64, 100, 256, 4096}) {
      expect_complete(sequences, cut_in_chunks(sequences, max_rows, max_sequences), max_rows,
                      max_sequences);
    }
  }
  EXPECT_EQ(cut_in_chunks(sequences, 4096, 16).size(), 1u);
}

TEST(StepPieces, SingleRowsAdvanceSideBySide) {
  const auto sequences = with_rows({2, 1, 3});
  const auto steps = cut_in_single_rows(sequences, 2);
  ASSERT_EQ(steps.size(), 2u + 3u);
  EXPECT_EQ(steps[0].size(), 2u);
  EXPECT_EQ(steps[1].size(), 1u);
  EXPECT_EQ(steps[4][0].sequence, 2);
  EXPECT_EQ(steps[4][0].begin, 2);
}

TEST(StepWriter, RowsSlotsPagesAndLogits) {
  runtime::StepCapacity capacity;
  capacity.rows = 256;
  capacity.sequences = 2;
  capacity.pages_per_sequence = 3;
  capacity.logit_rows = 256;
  StepWriter writer(capacity);
  std::vector<ScoredSequence> sequences = with_rows({5, 130, 70});
  sequences[1].first_scored = 129;  // rows 128, 129 are scored
  const runtime::Step& step = writer.write(sequences, {{1, 128, 130}, {2, 0, 70}},
                                           device::SequenceKind::prefill, LogitRows::scored);
  ASSERT_EQ(step.sequences.size(), 2u);
  EXPECT_EQ(step.sequences[0].state_read_slot, 1);
  EXPECT_EQ(step.sequences[0].kv_len, 130);
  EXPECT_EQ(step.sequences[1].state_read_slot, device::kZeroState);
  EXPECT_EQ(step.sequences[1].state_write_slot, 0);
  EXPECT_EQ(step.sequences[1].first_row, 2);
  EXPECT_EQ(std::vector<int32_t>(step.pages[0].begin(), step.pages[0].end()),
            (std::vector<int32_t>{3, 4, 5}));
  EXPECT_EQ(std::vector<int32_t>(step.pages[1].begin(), step.pages[1].end()),
            (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(step.positions[0], 128);
  EXPECT_EQ(step.positions[3 * 2], 0);
  EXPECT_EQ(step.logit_rows.size(), 72u);
  const runtime::Step& second = writer.write(sequences, {{1, 0, 64}, {2, 0, 1}},
                                             device::SequenceKind::decode, LogitRows::scored);
  EXPECT_EQ(second.logit_rows, (std::vector<int32_t>{64}));
  EXPECT_EQ(second.sequences[1].kind, device::SequenceKind::prefill);  // a sequence's first row
}

}  // namespace
}  // namespace nibble::eval
