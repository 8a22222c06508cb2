// A small but complete tokenizer.json, built in the test: 256 byte tokens, the merges asked for,
// two added tokens. For tests and fuzzing; the real files are far too large to mutate.
#pragma once

#include "base/json.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/vocabulary.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nibble::test {

/// Merges as pairs of byte strings, in rank order.
using TinyMerges = std::vector<std::pair<std::string, std::string>>;

/// Byte b has id b; the n-th new token of a merge has id 256 + n; then "<|end|>" (special) and
/// "<note>" (not special).
inline Json tiny_tokenizer_json(const TinyMerges& merges) {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    vocab[tokenizer::stand_ins_of_bytes({&c, 1})] = byte;
  }
  Json merge_list = Json::array();
  for (const auto& [left, right] : merges) {
    const std::string joined = tokenizer::stand_ins_of_bytes(left + right);
    if (!vocab.contains(joined)) vocab[joined] = vocab.size();
    merge_list.push_back(
        {tokenizer::stand_ins_of_bytes(left), tokenizer::stand_ins_of_bytes(right)});
  }
  const size_t base = vocab.size();
  const auto added = [](size_t id, const char* content, bool special) {
    return Json{{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", special}};
  };
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", false},
                           {"use_regex", false}};
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", std::string(tokenizer::kPatternMarksJoinLetters)}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  return Json{{"version", "1.0"},
              {"truncation", nullptr},
              {"padding", nullptr},
              {"added_tokens", {added(base, "<|end|>", true), added(base + 1, "<note>", false)}},
              {"normalizer", {{"type", "NFC"}}},
              {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}}},
              {"post_processor", byte_level},
              {"decoder", byte_level},
              {"model",
               {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", ""},
                {"end_of_word_suffix", ""},
                {"fuse_unk", false},
                {"byte_fallback", false},
                {"ignore_merges", false},
                {"vocab", vocab},
                {"merges", merge_list}}}};
}

}  // namespace nibble::test
