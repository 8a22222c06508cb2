// Text as part of an HTML or SVG document.
#pragma once

#include <string>
#include <string_view>

namespace nibble {

/// & < > ' " as entities, spelled as Python's markupsafe does: chat templates show them to a model.
std::string escape_html(std::string_view text);

}  // namespace nibble
