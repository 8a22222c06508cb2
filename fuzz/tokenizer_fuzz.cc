// Fuzzes the reading of tokenizer.json, and encoding with a small tokenizer made from the input.
//
// First byte even: the rest is a tokenizer.json (and, after a NUL, a tokenizer_config.json). Odd:
// the rest is a list of merges and a text; the text must come back out of encode and decode, whole
// and streamed. Any failed comparison aborts.
#include "base/check.h"
#include "base/utf8.h"
#include "tests/support/tiny_tokenizer.h"
#include "tokenizer/incremental_decoder.h"
#include "tokenizer/tokenizer.h"

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using nibble::tokenizer::AddedTokens;
using nibble::tokenizer::IncrementalDecoder;
using nibble::tokenizer::SkipSpecial;
using nibble::tokenizer::Tokenizer;

void fuzz_files(std::string_view input) {
  const size_t nul = input.find('\0');
  const std::string_view config =
      nul == std::string_view::npos ? std::string_view() : input.substr(nul + 1);
  const auto tokenizer = Tokenizer::parse(input.substr(0, nul), config);
  if (!tokenizer.ok()) {
    NIBBLE_CHECK(!tokenizer.error().message.empty(), "an error without a message");
    return;
  }
  const auto ids = tokenizer.value().encode(config, AddedTokens::parse);
  for (const int32_t id : ids) NIBBLE_CHECK(id < tokenizer.value().vocab_size(), "id", id);
}

// Takes merges from the input: two numbers choose among the tokens made so far.
nibble::test::TinyMerges take_merges(std::string_view& input) {
  nibble::test::TinyMerges merges;
  std::vector<std::string> tokens = {"a", "b", " ", "\xC3", "\xA9", "\xCC", "\x81", "e", "1", "!"};
  std::set<std::pair<std::string, std::string>> seen;
  if (input.empty()) return merges;
  const size_t count = static_cast<uint8_t>(input[0]) % 24;
  input.remove_prefix(1);
  for (size_t i = 0; i < count && input.size() >= 2; ++i) {
    const std::string left = tokens[static_cast<uint8_t>(input[0]) % tokens.size()];
    const std::string right = tokens[static_cast<uint8_t>(input[1]) % tokens.size()];
    input.remove_prefix(2);
    if (left.size() + right.size() > 64 || !seen.insert({left, right}).second) continue;
    tokens.push_back(left + right);
    merges.emplace_back(left, right);
  }
  return merges;
}

void fuzz_text(std::string_view input) {
  const auto merges = take_merges(input);
  const auto result =
      Tokenizer::parse(nibble::dump_json(nibble::test::tiny_tokenizer_json(merges)), "");
  NIBBLE_CHECK(result.ok(), "the tiny tokenizer was refused", result.error().message);
  const Tokenizer& tokenizer = result.value();
  std::string normalized;
  for (const std::string& piece : tokenizer.pre_tokenize(input)) {
    NIBBLE_CHECK(nibble::is_valid_utf8(piece), "a piece cuts a character");
    normalized += piece;
  }
  const auto plain = tokenizer.encode(input, AddedTokens::as_text);
  NIBBLE_CHECK(tokenizer.decode(plain, SkipSpecial::no) == normalized, "the text changed");
  const auto ids = tokenizer.encode(input, AddedTokens::parse);
  for (const auto skip : {SkipSpecial::no, SkipSpecial::yes}) {
    IncrementalDecoder decoder(tokenizer, skip);
    std::string streamed;
    for (const int32_t id : ids) streamed += decoder.feed(id);
    streamed += decoder.flush();
    NIBBLE_CHECK(streamed == tokenizer.decode(ids, skip), "streamed text differs");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0) {
    fuzz_files(input);
  } else {
    fuzz_text(input);
  }
  return 0;
}
