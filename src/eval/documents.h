// Evaluation texts: documents separated by a line <|endoftext|>, or the whole file as one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace nibble::eval {

/// Documents without the separator lines, white space trimmed at both ends; empty ones are dropped.
std::vector<std::string> split_documents(std::string_view text);

}  // namespace nibble::eval
