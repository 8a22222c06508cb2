// For tests only: an Executor without a model that checks every step against a simulated memory.
//
// Each KV row and each state slot holds the hash of the tokens up to there, so a page or slot that
// is shared, lost or stale is found at once, and the next token is a function of the sequence's
// tokens alone. Step rules of CONTRACT.md 4 are checked here, from the outside.
#pragma once

#include "base/check.h"
#include "base/rng.h"
#include "runtime/engine.h"
#include "runtime/executor.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace nibble::runtime {

/// Hash of a sequence of tokens, one token at a time from kEmptyHash.
inline constexpr uint64_t kEmptyHash = 0x5bd1e995;
inline uint64_t hash_token(uint64_t hash, int32_t token) {
  return random_bits(hash, static_cast<uint64_t>(token));
}

class FakeExecutor final : public Executor {
 public:
  FakeExecutor(const EngineLimits& limits, int32_t vocab_size)
      : vocab_size_(vocab_size),
        capacity_(step_capacity(limits)),
        rows_(static_cast<size_t>(limits.num_pages) * device::kPageTokens),
        states_(static_cast<size_t>(limits.max_num_seqs)) {}

  /// The token that follows a sequence with this hash, unless next_token is set.
  static int32_t token_after(uint64_t hash, int32_t vocab_size) {
    return static_cast<int32_t>(random_bits(hash, 77) % static_cast<uint64_t>(vocab_size));
  }

  int32_t vocab_size() const override { return vocab_size_; }

  Result<void> run(const Step& step, std::span<device::SampleResult> results) override {
    if (on_run) on_run(step);
    if (failure) return Error{ErrorCode::internal, *failure};
    ++num_steps;
    check_shape(step);
    hashes_.clear();
    for (size_t s = 0; s < step.sequences.size(); ++s) run_sequence(step, s);
    NIBBLE_CHECK(results.size() == step.samples.size(), "results", results.size());
    for (size_t i = 0; i < results.size(); ++i) {
      const auto row =
          static_cast<size_t>(step.logit_rows[static_cast<size_t>(step.samples[i].logits_row)]);
      results[i] = answer(step.samples[i], hashes_[row]);
    }
    return {};
  }

  std::function<void(const Step&)> on_run;  // called first, on the engine thread
  std::optional<std::string> failure;  // run() fails with this
  std::function<device::SampleResult(const device::SampleRow&, uint64_t hash)> next_token;
  int64_t num_steps = 0;
  int32_t max_rows_seen = 0;

 private:
  void check_shape(const Step& step) {
    const auto rows = static_cast<int32_t>(step.token_ids.size());
    max_rows_seen = std::max(max_rows_seen, rows);
    NIBBLE_CHECK(rows > 0 && rows <= capacity_.rows, "rows of a step", rows, capacity_.rows);
    NIBBLE_CHECK(static_cast<int32_t>(step.sequences.size()) <= capacity_.sequences,
                 "sequences of a step", step.sequences.size());
    NIBBLE_CHECK(step.pages.size() == step.sequences.size(), "page lists", step.pages.size());
    NIBBLE_CHECK(step.positions.size() == 3 * step.token_ids.size(), "positions",
                 step.positions.size());
    bool has_prefill = false;
    for (const device::SequenceStep& sequence : step.sequences) {
      const bool is_prefill = sequence.kind == device::SequenceKind::prefill;
      NIBBLE_CHECK(is_prefill || !has_prefill, "a decode behind a prefill chunk");
      has_prefill = has_prefill || is_prefill;
    }
  }

  void run_sequence(const Step& step, size_t s) {
    const device::SequenceStep& sequence = step.sequences[s];
    const int32_t begin = sequence.kv_len - sequence.q_len;
    const int32_t end_row = sequence.first_row + sequence.q_len;
    const bool wants_logits = std::find(step.logit_rows.begin(), step.logit_rows.end(),
                                        end_row - 1) != step.logit_rows.end();
    NIBBLE_CHECK(static_cast<size_t>(sequence.first_row) == hashes_.size(), "rows overlap");
    if (sequence.kind == device::SequenceKind::decode) {
      NIBBLE_CHECK(sequence.q_len == 1 && wants_logits, "a decode is one row with logits");
    } else {
      NIBBLE_CHECK(begin % device::kPageTokens == 0, "a chunk begins off the grid", begin);
      NIBBLE_CHECK(wants_logits || sequence.kv_len % device::kPageTokens == 0,
                   "a chunk that is not the last ends off the grid", sequence.kv_len);
    }
    uint64_t hash = state_before(sequence, begin);
    if (begin > 0) {
      NIBBLE_CHECK(row_of(step.pages[s], begin - 1) == hash, "KV rows and state disagree", begin);
    }
    for (int32_t i = 0; i < sequence.q_len; ++i) {
      const auto row = static_cast<size_t>(sequence.first_row + i);
      NIBBLE_CHECK(step.positions[3 * row] == begin + i, "position", step.positions[3 * row]);
      hash = hash_token(hash, step.token_ids[row]);
      row_of(step.pages[s], begin + i) = hash;
      hashes_.push_back(hash);
    }
    states_[static_cast<size_t>(sequence.state_write_slot)] = hash;
  }

  uint64_t state_before(const device::SequenceStep& sequence, int32_t begin) const {
    NIBBLE_CHECK((sequence.state_read_slot == device::kZeroState) == (begin == 0),
                 "only a sequence that starts reads the zero state", begin);
    return begin == 0 ? kEmptyHash : states_[static_cast<size_t>(sequence.state_read_slot)];
  }

  uint64_t& row_of(std::span<const int32_t> pages, int32_t index) {
    const auto page = static_cast<size_t>(index / device::kPageTokens);
    NIBBLE_CHECK(page < pages.size(), "KV row without a page", index, pages.size());
    return rows_[static_cast<size_t>(pages[page]) * device::kPageTokens +
                 static_cast<size_t>(index % device::kPageTokens)];
  }

  device::SampleResult answer(const device::SampleRow& row, uint64_t hash) const {
    if (next_token) return next_token(row, hash);
    device::SampleResult result;
    result.token = token_after(hash, vocab_size_);
    return result;
  }

  int32_t vocab_size_;
  StepCapacity capacity_;
  std::vector<uint64_t> rows_;  // by page and row
  std::vector<uint64_t> states_;  // by slot
  std::vector<uint64_t> hashes_;  // by row of the step
};

}  // namespace nibble::runtime
