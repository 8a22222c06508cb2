// A slot has one owner: the reference count of the pool is 0 or 1 here.
#include "runtime/state_slots.h"

#include "base/check.h"

namespace nibble::runtime {

StateHandle StateSlots::acquire() {
  StateHandle handle;
  handle.slot = pool_.acquire();
  handle.generation = pool_.generation(handle.slot);
  return handle;
}

void StateSlots::release(StateHandle& handle) {
  NIBBLE_CHECK(is_live(handle), "release of a stale state slot", handle.slot, handle.generation);
  pool_.release(handle.slot);
  handle = StateHandle();
}

bool StateSlots::is_live(const StateHandle& handle) const {
  return handle.is_valid() && pool_.ref_count(handle.slot) == 1 &&
         pool_.generation(handle.slot) == handle.generation;
}

}  // namespace nibble::runtime
