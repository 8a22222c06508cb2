// Python's str as templates see it: code points, character classes, case, splitting, stripping.
//
// All texts are UTF-8; indices and lengths count code points. Classes come from utf8proc's general
// categories, multi-character case mappings (as in "ss" for U+00DF) from a table in text_case.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::tokenizer::jinja {

std::u32string decode_text(std::string_view text);
std::string encode_text(std::u32string_view code_points);
std::string encode_text(char32_t code_point);
size_t text_length(std::string_view text);
/// Byte offset of the code point with this index; text.size() at or past the end.
size_t byte_offset(std::string_view text, size_t index);

// Python's str.isspace, isalpha, ... of one code point.
bool is_space(char32_t c);
bool is_printable(char32_t c);
bool is_alpha(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);
bool is_numeric(char32_t c);
bool is_upper(char32_t c);
bool is_lower(char32_t c);
bool is_title(char32_t c);
/// May start / continue an identifier.
bool is_identifier_start(char32_t c);
bool is_identifier_part(char32_t c);

// Whole texts (text_case.cc).
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_title(std::string_view text);  // str.title
std::string capitalize(std::string_view text);
std::string swap_case(std::string_view text);
std::string fold_case(std::string_view text);

enum class Side { left, right, both };

/// Without `characters`: white space.
std::string_view strip(std::string_view text, Side side,
                       std::optional<std::string_view> characters = std::nullopt);

/// maximum < 0: no limit on the number of splits. The views point into `text`.
std::vector<std::string_view> split_space(std::string_view text, int64_t maximum);
std::vector<std::string_view> split_space_right(std::string_view text, int64_t maximum);
/// The separator must not be empty.
std::vector<std::string_view> split(std::string_view text, std::string_view separator,
                                    int64_t maximum);
std::vector<std::string_view> split_right(std::string_view text, std::string_view separator,
                                          int64_t maximum);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

/// Non-overlapping occurrences; an empty needle stands between all code points.
size_t count_occurrences(std::string_view text, std::string_view needle);

/// count < 0: all.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to,
                        int64_t count);

}  // namespace nibble::tokenizer::jinja
