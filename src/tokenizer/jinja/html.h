// HTML back to text, as the reference's markup library does it.
#pragma once

#include <string>
#include <string_view>

namespace nibble::tokenizer::jinja {

/// Removes tags and comments, collapses white space, resolves numeric entities and the common named
/// ones.
std::string strip_tags(std::string_view text);

}  // namespace nibble::tokenizer::jinja
