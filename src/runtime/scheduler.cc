// Start reading at schedule(). Everything a step needs was reserved by the constructor.
#include "runtime/scheduler.h"

#include "base/check.h"

#include <algorithm>

namespace nibble::runtime {

int32_t prefill_chunk_end(int32_t num_computed, int32_t num_prompt, int32_t budget) {
  if (num_prompt - num_computed <= budget) return num_prompt;
  const int32_t reach = num_computed + std::max(budget, 0);
  return std::max(num_computed, reach - reach % device::kPageTokens);
}

Scheduler::Scheduler(const EngineLimits& limits)
    : limits_(limits), pages_(limits.num_pages), slots_(limits.max_num_seqs) {
  NIBBLE_CHECK(limits.max_num_seqs > 0, "max_num_seqs", limits.max_num_seqs);
  NIBBLE_CHECK(limits.max_model_len > 1, "max_model_len", limits.max_model_len);
  NIBBLE_CHECK(pages_for_tokens(limits.max_model_len - 1) <= limits.num_pages,
               "one sequence of max_model_len must fit the pages", limits.max_model_len,
               limits.num_pages);
  const auto sequences = static_cast<size_t>(limits.max_num_seqs);
  running_.reserve(sequences);
  step_.reserve(sequences);
  claims_.reserve(sequences);
  page_counts_.resize(static_cast<size_t>(limits.num_pages));
  slot_counts_.resize(sequences);
}

void Scheduler::add(Sequence& sequence) {
  NIBBLE_CHECK(sequence.state == SequenceState::waiting, "only a waiting sequence can be added",
               sequence.id);
  NIBBLE_CHECK(
      sequence.num_prompt_tokens > 0 && sequence.max_total_tokens > sequence.num_prompt_tokens &&
          sequence.max_total_tokens <= limits_.max_model_len,
      "sequence does not fit the context", sequence.num_prompt_tokens, sequence.max_total_tokens);
  waiting_.push_back(&sequence);
}

void Scheduler::admit() {
  while (!waiting_.empty() && can_admit(*waiting_.front())) {
    Sequence& sequence = *waiting_.front();
    waiting_.pop_front();
    sequence.tokens.reserve(static_cast<size_t>(sequence.max_total_tokens));
    sequence.pages.reserve(static_cast<size_t>(pages_for_tokens(sequence.max_computed_tokens())));
    pages_.grow(sequence.pages, pages_for_tokens(sequence.num_prompt_tokens));
    sequence.slot = slots_.acquire();
    sequence.state = SequenceState::prefill;
    running_.push_back(&sequence);
  }
}

bool Scheduler::can_admit(const Sequence& sequence) {
  if (num_running() >= limits_.max_num_seqs || slots_.num_free() == 0) return false;
  for (const Sequence* other : running_) {
    if (other->is_stalled) return false;
  }
  const int32_t needed = pages_for_tokens(sequence.num_prompt_tokens);
  return needed <= pages_.num_free() && is_safe_with(&sequence, needed, pages_.num_free() - needed);
}

/// Whether the claims of all running sequences are safe if `grown` (running or not) holds `held`
/// pages and `free_pages` are left.
bool Scheduler::is_safe_with(const Sequence* grown, int32_t held, int32_t free_pages) {
  claims_.clear();
  for (const Sequence* sequence : running_) {
    if (sequence == grown) continue;
    claims_.push_back({static_cast<int32_t>(sequence->pages.size()),
                       pages_for_tokens(sequence->max_computed_tokens())});
  }
  if (grown != nullptr) {
    claims_.push_back({held, pages_for_tokens(grown->max_computed_tokens())});
  }
  return claims_are_safe(free_pages, claims_);
}

std::span<const ScheduledSequence> Scheduler::schedule() {
  step_.clear();
  step_rows_ = 0;
  schedule_decodes();
  schedule_prefills();
  NIBBLE_CHECK(running_.empty() || !step_.empty(), "an admitted sequence, but an empty step",
               running_.size(), pages_.num_free());
  return step_;
}

void Scheduler::schedule_decodes() {
  for (Sequence* sequence : running_) {
    if (sequence->state != SequenceState::decode) continue;
    sequence->is_stalled = !grow_for_decode(*sequence);
    if (!sequence->is_stalled) schedule_rows(*sequence, 1);
  }
}

/// Room for one more KV row; false if the sequence has to wait for a page.
bool Scheduler::grow_for_decode(Sequence& sequence) {
  const int32_t needed = pages_for_tokens(sequence.num_computed_tokens + 1);
  const auto held = static_cast<int32_t>(sequence.pages.size());
  if (needed <= held) return true;
  if (pages_.num_free() == 0) return false;
  if (!is_safe_with(&sequence, needed, pages_.num_free() - 1)) return false;
  pages_.grow(sequence.pages, needed);
  return true;
}

void Scheduler::schedule_prefills() {
  // One chunk of 64 always has room beside the decodes, however small the budget.
  const int32_t rows = std::max(limits_.max_num_batched_tokens, step_rows_ + device::kPageTokens);
  for (Sequence* sequence : running_) {
    if (sequence->state != SequenceState::prefill) continue;
    const int32_t begin = sequence->num_computed_tokens;
    const int32_t end = prefill_chunk_end(begin, sequence->num_prompt_tokens, rows - step_rows_);
    if (end == begin) return;  // first come first served: nobody passes
    schedule_rows(*sequence, end - begin);
  }
}

void Scheduler::schedule_rows(Sequence& sequence, int32_t num_tokens) {
  ScheduledSequence part;
  part.sequence = &sequence;
  part.first_token = sequence.num_computed_tokens;
  part.num_tokens = num_tokens;
  part.is_prefill = sequence.state == SequenceState::prefill;
  part.wants_token = part.first_token + num_tokens == sequence.num_tokens();
  ++sequence.steps_in_flight;
  step_rows_ += num_tokens;
  step_.push_back(part);
}

void Scheduler::advance() {
  for (const ScheduledSequence& part : step_) {
    Sequence& sequence = *part.sequence;
    sequence.num_computed_tokens += part.num_tokens;
    sequence.slot.holds_state = true;
    --sequence.steps_in_flight;
    if (sequence.num_computed_tokens >= sequence.num_prompt_tokens) {
      sequence.state = SequenceState::decode;
    }
  }
  step_.clear();
}

void Scheduler::abandon() {
  for (const ScheduledSequence& part : step_) part.sequence->steps_in_flight = 0;
  step_.clear();
}

void Scheduler::remove(Sequence& sequence) {
  NIBBLE_CHECK(sequence.steps_in_flight == 0, "a step in flight refers to the sequence",
               sequence.id);
  if (sequence.state == SequenceState::waiting) {
    const auto at = std::find(waiting_.begin(), waiting_.end(), &sequence);
    NIBBLE_CHECK(at != waiting_.end(), "sequence is not in the queue", sequence.id);
    waiting_.erase(at);
    return;
  }
  const auto at = std::find(running_.begin(), running_.end(), &sequence);
  NIBBLE_CHECK(at != running_.end(), "sequence is not running", sequence.id);
  running_.erase(at);
  pages_.release_all(sequence.pages);
  slots_.release(sequence.slot);
}

void Scheduler::check_invariants() {
  NIBBLE_CHECK(num_running() <= limits_.max_num_seqs, "too many running", num_running());
  RequestId last = 0;
  for (const Sequence* sequence : running_) {
    check_sequence(*sequence);
    NIBBLE_CHECK(sequence->id > last, "running list is out of order", sequence->id, last);
    last = sequence->id;
  }
  for (const Sequence* sequence : waiting_) {
    NIBBLE_CHECK(sequence->state == SequenceState::waiting && sequence->pages.empty() &&
                     !sequence->slot.is_valid(),
                 "a waiting sequence holds something", sequence->id);
    NIBBLE_CHECK(sequence->id > last, "queue is out of order", sequence->id, last);
    last = sequence->id;
  }
  check_pools();
  NIBBLE_CHECK(is_safe_with(nullptr, 0, pages_.num_free()), "page claims are not safe",
               pages_.num_free());
}

void Scheduler::check_sequence(const Sequence& sequence) const {
  const Sequence& s = sequence;
  NIBBLE_CHECK(s.steps_in_flight == 0, "in flight between steps", s.id, s.steps_in_flight);
  NIBBLE_CHECK(slots_.is_live(s.slot), "stale state slot", s.id, s.slot.slot);
  NIBBLE_CHECK(s.slot.holds_state == (s.num_computed_tokens > 0), "slot and progress disagree",
               s.id, s.num_computed_tokens);
  const auto held = static_cast<int32_t>(s.pages.size());
  NIBBLE_CHECK(held >= pages_for_tokens(s.num_computed_tokens) &&
                   held <= pages_for_tokens(s.max_computed_tokens()),
               "pages held", s.id, held, s.num_computed_tokens, s.max_computed_tokens());
  if (s.state == SequenceState::prefill) {
    NIBBLE_CHECK(s.num_computed_tokens < s.num_prompt_tokens &&
                     s.num_computed_tokens % device::kPageTokens == 0 &&
                     s.num_tokens() == s.num_prompt_tokens,
                 "prefill off the grid of 64", s.id, s.num_computed_tokens, s.num_prompt_tokens);
  } else {
    NIBBLE_CHECK(s.state == SequenceState::decode && s.num_computed_tokens == s.num_tokens() - 1 &&
                     s.num_tokens() < s.max_total_tokens,
                 "decode position", s.id, s.num_computed_tokens, s.num_tokens());
  }
}

void Scheduler::check_pools() {
  std::fill(page_counts_.begin(), page_counts_.end(), 0);
  std::fill(slot_counts_.begin(), slot_counts_.end(), 0);
  for (const Sequence* sequence : running_) {
    for (const int32_t page : sequence->pages) ++page_counts_[static_cast<size_t>(page)];
    ++slot_counts_[static_cast<size_t>(sequence->slot.slot)];
  }
  pages_.check_invariants(page_counts_);
  slots_.check_invariants(slot_counts_);
}

}  // namespace nibble::runtime
