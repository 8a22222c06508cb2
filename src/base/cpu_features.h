// What this processor can run, by CPUID and XGETBV, and the instruction set levels built from it.
//
// scalar: baseline x86-64. avx2: AVX2 + FMA + F16C + BMI2. avx512: F, BW, DQ, VL. avx512_dot: adds
// VNNI, BF16.
#pragma once

#include "base/result.h"

#include <string>
#include <vector>

namespace nibble {

enum class IsaLevel { scalar, avx2, avx512, avx512_dot };

const char* isa_level_name(IsaLevel level);

/// Highest level this processor and operating system support.
IsaLevel detect_isa_level();

/// Every level from scalar up to `highest`.
std::vector<IsaLevel> isa_levels_up_to(IsaLevel highest);

/// Level to use: the detected one, or `forced` (the value of NIBBLE_FORCE_ISA) when not empty.
/// Errors: unknown name, or a level this machine lacks; both list the valid names.
Result<IsaLevel> select_isa_level(const std::string& forced);

/// Physical cores this process may run on (its affinity mask, one per core). At least 1.
std::vector<int> usable_physical_cores();

}  // namespace nibble
