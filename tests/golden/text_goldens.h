// The text_X families: the text model against the reference implementation's traces.
//
// f32: every tensor within e <= 5e-5, in one step, in chunks and token by token. exact: routing
// forced, per-layer and logits L2 against the family's own BF16 figures, and against the double
// reference with the same rounding points.
#pragma once

#include "tests/golden/report.h"

#include <string>

namespace nibble::golden {

/// `folder`: a text_X folder; `model`: its checkpoint; `name` begins the case names.
void run_text_family(const std::string& folder, const std::string& model, const std::string& name,
                     Report& report);

}  // namespace nibble::golden
