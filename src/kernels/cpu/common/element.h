// Element types of the buffers that the small operations read and write.
//
// Plain enum without functions, so that files compiled for one ISA level may include it.
#pragma once

#include <cstdint>

namespace nibble::cpu {

enum class Element : int32_t { f32, bf16, f8_e4m3 };

/// "The sequence's state at num_tokens goes to slot": device::StateSave in kernel terms.
struct StateSaveRequest {
  int32_t sequence;  // index of the sequence within the step
  int32_t num_tokens;  // tokens counted from the start of the sequence
  int32_t slot;
};

}  // namespace nibble::cpu
