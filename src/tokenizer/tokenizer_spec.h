// What tokenizer.json and tokenizer_config.json say, checked against what this program can do.
//
// Every field of tokenizer.json must be known and hold a supported value; silence about a setting
// would give wrong ids without a word. tokenizer_config.json has many descriptive fields: there
// only those that change ids or text are looked at.
#pragma once

#include "base/result.h"
#include "tokenizer/tokenizer_json.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::tokenizer {

struct AddedTokenSpec {
  int32_t id;
  std::string content;  // plain text, no stand-ins
  bool is_special;
};

struct TokenizerSpec {
  bool normalizes_nfc = false;
  bool ignores_merges = false;  // a piece that is a token as a whole is not merged from bytes
  std::string split_pattern;
  std::vector<VocabEntry> vocab;
  std::vector<MergeEntry> merges;
  std::vector<AddedTokenSpec> added_tokens;
};

struct TokenizerConfig {
  std::vector<AddedTokenSpec> added_tokens;  // added_tokens_decoder, by rising id
  std::optional<std::string> bos_token, eos_token, pad_token;
  std::optional<std::string> chat_template;
};

/// Errors name file, field, value found and value wanted. `what` names the file.
Result<TokenizerSpec> parse_tokenizer_spec(std::string_view json, const std::string& what);
Result<TokenizerConfig> parse_tokenizer_config(std::string_view json, const std::string& what);

}  // namespace nibble::tokenizer
