// The template family (goldens: chat.jsonl, jinja.jsonl).
#pragma once

#include "tests/golden/report.h"

#include <string>

namespace nibble::golden {

/// Runs every conversation of chat.jsonl through the folder's chat_template.jinja, and every
/// template of jinja.jsonl with jinja_context.json. Texts must be equal; where an error is expected
/// there must be one, and errors that the template raised itself must have the same words. Returns
/// true when nothing failed.
bool run_template_family(const std::string& folder, Report& report);

}  // namespace nibble::golden
