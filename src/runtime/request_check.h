// Whether the engine can take a request at all, before it is queued.
//
// The front end has its own, friendlier checks; these protect the engine from any caller.
#pragma once

#include "base/result.h"
#include "runtime/engine.h"
#include "runtime/request.h"

namespace nibble::runtime {

/// invalid_argument naming the field, the value found and the values allowed. Pure.
Result<void> check_request(const Request& request, const EngineLimits& limits, int32_t vocab_size);

}  // namespace nibble::runtime
