// Decides what runs in the next step: all decodes, then prefill chunks, first come first served.
//
// Owns the waiting and running lists and the pools of page and slot numbers; sequences belong to
// the engine. Engine thread only; never touches device memory, never looks at text. Rules:
// CONTRACT.md 3. Between schedule() and advance() no sequence of the step may be removed.
#pragma once

#include "runtime/engine.h"
#include "runtime/kv_pages.h"
#include "runtime/page_claims.h"
#include "runtime/sequence.h"
#include "runtime/state_slots.h"

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

namespace nibble::runtime {

/// One sequence's part of a step: tokens [first_token, first_token + num_tokens).
struct ScheduledSequence {
  Sequence* sequence = nullptr;
  int32_t first_token = 0;
  int32_t num_tokens = 0;
  bool is_prefill = false;
  bool wants_token = false;  // its last row's logits are sampled
};

class Scheduler {
 public:
  explicit Scheduler(const EngineLimits& limits);

  /// Puts a sequence (state waiting) at the end of the queue.
  void add(Sequence& sequence);

  /// Moves sequences from the head of the queue to the running list while there is a slot and the
  /// pages of the whole prompt, and every claim stays safe (page_claims.h). The head is never
  /// passed, and nobody enters while a running sequence waits for a page.
  void admit();

  /// The next step. Not empty while any sequence is running. Valid until advance() or abandon().
  std::span<const ScheduledSequence> schedule();

  /// After the step ran: its tokens are computed; a sequence whose prompt is done turns to decode
  /// and needs its first generated token appended before the next schedule().
  void advance();

  /// Instead of advance() when the step failed: nothing was computed, nothing is in flight.
  void abandon();

  /// Takes a sequence out of either list and gives back its pages and slot.
  void remove(Sequence& sequence);

  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t num_free_pages() const { return pages_.num_free(); }
  int32_t num_free_slots() const { return slots_.num_free(); }

  /// Aborts if a rule of CONTRACT.md 2 or 3 is broken. Between steps only.
  void check_invariants();

 private:
  bool can_admit(const Sequence& sequence);
  bool grow_for_decode(Sequence& sequence);
  void schedule_decodes();
  void schedule_prefills();
  void schedule_rows(Sequence& sequence, int32_t num_tokens);
  bool is_safe_with(const Sequence* grown, int32_t held, int32_t free_pages);
  void check_sequence(const Sequence& sequence) const;
  void check_pools();

  EngineLimits limits_;
  KvPages pages_;
  StateSlots slots_;
  std::deque<Sequence*> waiting_;
  std::vector<Sequence*> running_;  // in order of admission
  std::vector<ScheduledSequence> step_;
  int32_t step_rows_ = 0;
  std::vector<PageClaim> claims_;  // scratch
  std::vector<int32_t> page_counts_, slot_counts_;  // scratch of check_invariants
};

/// Where a prefill chunk ends that starts at num_computed and may have `budget` rows: the end of
/// the prompt if that fits, else the last multiple of 64 that fits, else num_computed.
int32_t prefill_chunk_end(int32_t num_computed, int32_t num_prompt, int32_t budget);

}  // namespace nibble::runtime
