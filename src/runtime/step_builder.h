// Turns what the scheduler picked into a Step: token ids, positions, pages, slots, sampling rows.
//
// The only place that knows how a sequence becomes rows. Allocates nothing: make_step() reserves
// for the largest step.
#pragma once

#include "runtime/executor.h"
#include "runtime/scheduler.h"

#include <span>

namespace nibble::runtime {

/// An empty step with room for the largest one.
Step make_step(const StepCapacity& capacity);

/// Replaces the contents of `step`. samples[i] answers the i-th part with wants_token. The step
/// refers to the sequences' page lists and sampling state until the sequences change.
void build_step(std::span<const ScheduledSequence> parts, Step& step);

}  // namespace nibble::runtime
