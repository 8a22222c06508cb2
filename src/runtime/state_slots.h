// State slots: numbers of fixed-size places for the recurrent state and convolution window of all
// DeltaNet layers of one sequence.
//
// A step reads the read slot and writes the write slot of a sequence (device/step_plan.h). A
// sequence that has computed nothing reads kZeroState, so a slot needs no clearing between owners.
#pragma once

#include "device/step_plan.h"
#include "runtime/number_pool.h"

#include <cstdint>

namespace nibble::runtime {

/// One sequence's slot. The generation tells a stale handle from a live one.
struct StateHandle {
  int32_t slot = -1;
  uint32_t generation = 0;
  bool holds_state = false;  // a step of this sequence has written it

  bool is_valid() const { return slot >= 0; }
  int32_t read_slot() const { return holds_state ? slot : device::kZeroState; }
  int32_t write_slot() const { return slot; }
};

class StateSlots {
 public:
  explicit StateSlots(int32_t num_slots) : pool_(num_slots, "state slot") {}

  int32_t total() const { return pool_.total(); }
  int32_t num_free() const { return pool_.num_free(); }

  /// A slot that holds nothing yet; there must be a free one.
  StateHandle acquire();
  void release(StateHandle& handle);
  bool is_live(const StateHandle& handle) const;

  void check_invariants(std::span<const int32_t> expected) const {
    pool_.check_invariants(expected);
  }

 private:
  NumberPool pool_;
};

}  // namespace nibble::runtime
