// The WikiText file as lm-evaluation-harness scores it: articles, their text made readable again,
// and the word count of the original.
//
// Order and form of the replacements are part of the published numbers (spec eval.md 2.3): change
// nothing here without comparing with them. White space means Unicode white space.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::eval {

/// Articles from one top-level heading (a line " = Title = ") to the next, heading included. Text
/// before the first heading is an article of its own unless it is blank.
std::vector<std::string> split_articles(std::string_view text);

/// Undoes the tokenization of the published files: " @-@ " -> "-", "( a )" -> "(a)", ...
std::string detokenize_article(std::string_view article);

/// Pieces of the text split at runs of white space; empty pieces at the ends count.
int64_t count_words(std::string_view text);

}  // namespace nibble::eval
