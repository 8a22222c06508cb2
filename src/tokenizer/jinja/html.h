// HTML escaping and its undoing, as the reference's markup library does them.
#pragma once

#include <string>
#include <string_view>

namespace nibble::tokenizer::jinja {

/// & < > ' " as HTML entities.
std::string escape_html(std::string_view text);

/// Removes tags and comments, collapses white space, resolves numeric entities and the common named
/// ones.
std::string strip_tags(std::string_view text);

}  // namespace nibble::tokenizer::jinja
