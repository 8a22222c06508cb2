// Searched block scales of a ModelOpt case: codes for the stored scales, and our own search by its
// loss.
#pragma once

#include "formats/checkpoint.h"
#include "formats/nvfp4_rules.h"
#include "model/checkpoint_source.h"
#include "tests/golden/report.h"

#include <string>

namespace nibble::golden {

struct SearchCase {
  std::string name;  // begins every case name
  std::string folder;  // export.safetensors, and for hessian hessian.safetensors
  formats::ScaleMethod method;
  formats::Nvfp4Rules rules;
};

/// Every matrix stored in full: its codes must be those of its stored scales, and the loss of our
/// scales (`mine`, or with stored second moments searched here) at most 1.001 times its own.
void compare_searched(const SearchCase& wanted, const formats::Checkpoint& mine,
                      model::CheckpointSource& source, Report& report);

}  // namespace nibble::golden
