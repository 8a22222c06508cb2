// Reads tokenizer.json in one pass: the two big members (model.vocab, model.merges) into flat
// lists, the rest into a small JSON document.
//
// A quarter of a million entries as a JSON document would cost most of a second. No meaning is
// checked here beyond the shape of those two members: that is tokenizer_spec's work.
#pragma once

#include "base/json.h"
#include "base/result.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::tokenizer {

/// One entry of model.vocab, the token written with stand-ins for bytes.
struct VocabEntry {
  std::string token;
  int64_t id;
};

/// One entry of model.merges, both parts written with stand-ins.
struct MergeEntry {
  std::string left;
  std::string right;
};

struct TokenizerJson {
  Json rest;  // everything but model.vocab and model.merges
  std::vector<VocabEntry> vocab;
  std::vector<MergeEntry> merges;  // accepted as "a b" and as ["a", "b"]
  bool has_vocab = false;
  bool has_merges = false;
};

/// Errors: no valid JSON, nested too deep, repeated keys (outside vocab, where the vocabulary finds
/// them), a vocab value that is no integer, a merge that is no pair. `what` names the file.
Result<TokenizerJson> read_tokenizer_json(std::string_view text, const std::string& what);

}  // namespace nibble::tokenizer
