// Text to token ids and back: byte-level BPE of the Qwen family, read from a checkpoint's
// tokenizer.json and tokenizer_config.json.
//
// Order of encoding: invalid UTF-8 becomes U+FFFD, added tokens are cut out (exact, before
// normalization), then NFC, the pre-tokenizer and BPE on each piece. Nothing is ever added
// (no BOS, no space). Immutable after loading: every const function is safe from any thread.
#pragma once

#include "base/result.h"
#include "tokenizer/added_token_matcher.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/vocabulary.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::tokenizer {

struct TokenizerSpec;
struct TokenizerConfig;

/// Whether "<|im_end|>" in a text is that token, or ten characters of plain text.
enum class AddedTokens { parse, as_text };

/// Whether special tokens are left out of decoded text.
enum class SkipSpecial { no, yes };

class Tokenizer {
 public:
  /// Reads a checkpoint's folder (tokenizer.json, and tokenizer_config.json where there is one), or
  /// a tokenizer.json alone. Errors: files missing, or anything in them that is unknown,
  /// unsupported or contradictory; the message names file, field, value found and value wanted.
  static Result<Tokenizer> load(const std::string& directory_or_file);

  /// The same from text. tokenizer_config may be empty.
  static Result<Tokenizer> parse(std::string_view tokenizer_json,
                                 std::string_view tokenizer_config);

  /// Ids of `text` (below 2^31 bytes). Each invalid part of UTF-8 counts as U+FFFD.
  std::vector<int32_t> encode(std::string_view text, AddedTokens added_tokens) const;

  /// The pieces BPE works on, normalized; added tokens are plain text here.
  std::vector<std::string> pre_tokenize(std::string_view text) const;

  /// Text of `ids`: their bytes joined, each invalid part as U+FFFD. Ids of no token are left out,
  /// as the reference does (embeddings may have more rows than the vocabulary).
  std::string decode(std::span<const int32_t> ids, SkipSpecial skip_special) const;

  /// Bytes of one token, not necessarily valid UTF-8; empty for an id of no token.
  std::string_view token_bytes(int32_t id) const { return vocabulary_.bytes(id); }

  bool is_special(int32_t id) const { return vocabulary_.kind(id).is_special; }
  bool is_added(int32_t id) const { return vocabulary_.kind(id).is_added; }

  /// The token that consists of exactly these bytes ("<|im_end|>", " the").
  std::optional<int32_t> token_id(std::string_view bytes) const { return vocabulary_.find(bytes); }

  /// Largest id plus one. Ids below it may be unused.
  int32_t vocab_size() const { return vocabulary_.size(); }

  /// From tokenizer_config.json; nothing where it says null or there is no such file.
  std::optional<int32_t> bos_token_id() const { return bos_; }
  std::optional<int32_t> eos_token_id() const { return eos_; }
  std::optional<int32_t> pad_token_id() const { return pad_; }
  const std::optional<std::string>& chat_template() const { return chat_template_; }

 private:
  Tokenizer(PreTokenizer pre_tokenizer, Vocabulary vocabulary, Bpe bpe, const TokenizerSpec& spec);

  static Result<Tokenizer> build(const TokenizerSpec& spec, const TokenizerConfig& config,
                                 const std::string& what);
  Result<void> name_special_tokens(const TokenizerConfig& config, const std::string& what);
  void encode_plain(std::string_view text, BpeScratch& scratch, std::vector<int32_t>& ids) const;

  PreTokenizer pre_tokenizer_;
  Vocabulary vocabulary_;
  Bpe bpe_;
  AddedTokenMatcher matcher_;
  bool normalizes_nfc_;
  bool ignores_merges_;
  std::optional<int32_t> bos_, eos_, pad_;
  std::optional<std::string> chat_template_;
};

}  // namespace nibble::tokenizer
