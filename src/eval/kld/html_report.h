// The comparison as one HTML page: tables and inline SVG, nothing fetched, nothing run.
#pragma once

#include "eval/kld/kld_result.h"

#include <string>

namespace nibble::eval {

/// Complete document, UTF-8. Equal results give equal bytes.
std::string html_report(const KldResult& result);

}  // namespace nibble::eval
