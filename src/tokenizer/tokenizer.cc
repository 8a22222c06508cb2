// Puts the parts together: files into tables, and the order of the encoding steps.
#include "tokenizer/tokenizer.h"

#include "base/file.h"
#include "base/utf8.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/tokenizer_spec.h"

#include <fmt/format.h>

#include <array>
#include <utility>

namespace nibble::tokenizer {
namespace {

Result<std::string> bytes_of_entry(const std::string& stand_ins, const std::string& where) {
  std::string bytes;
  if (append_stand_in_bytes(bytes, stand_ins)) return bytes;
  return Error{
      ErrorCode::unsupported,
      fmt::format("{}: \"{}\" is not written in the byte-level alphabet", where, stand_ins)};
}

Result<Vocabulary> build_vocabulary(const TokenizerSpec& spec, const TokenizerConfig& config,
                                    const std::string& what) {
  Vocabulary vocabulary;
  size_t total_bytes = 0;
  for (const VocabEntry& entry : spec.vocab) total_bytes += entry.token.size();
  vocabulary.reserve(spec.vocab.size() + spec.added_tokens.size(), total_bytes);
  const std::string where = what + ": model.vocab";
  std::string bytes;
  for (const VocabEntry& entry : spec.vocab) {
    bytes.clear();
    if (!append_stand_in_bytes(bytes, entry.token))
      return bytes_of_entry(entry.token, where).error();
    if (entry.id < 0 || entry.id > kMaxTokenId) {
      return Error{ErrorCode::corrupt, fmt::format("{}: \"{}\": found id {}, expected 0 to {}",
                                                   where, entry.token, entry.id, kMaxTokenId)};
    }
    if (vocabulary.find(bytes)) {
      return Error{ErrorCode::corrupt, fmt::format("{}: \"{}\" appears twice", where, entry.token)};
    }
    NIBBLE_RETURN_IF_ERROR(
        vocabulary.add(static_cast<int32_t>(entry.id), bytes, {.is_base = true}, where.c_str()));
  }
  for (const auto* list : {&spec.added_tokens, &config.added_tokens}) {
    for (const AddedTokenSpec& token : *list) {
      const TokenKind kind{.is_added = true, .is_special = token.is_special};
      NIBBLE_RETURN_IF_ERROR(
          vocabulary.add(token.id, token.content, kind, (what + ": added tokens").c_str()));
    }
  }
  return vocabulary;
}

Result<std::array<int32_t, 256>> find_byte_ids(const Vocabulary& vocabulary,
                                               const std::string& what) {
  std::array<int32_t, 256> ids{};
  for (size_t byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    const auto id = vocabulary.find({&c, 1});
    if (!id || !vocabulary.kind(*id).is_base) {
      return Error{
          ErrorCode::unsupported,
          fmt::format("{}: model.vocab: no token for byte {:#04x}, expected all 256", what, byte)};
    }
    ids[byte] = *id;
  }
  return ids;
}

Result<Bpe> build_bpe(const TokenizerSpec& spec, const Vocabulary& vocabulary,
                      const std::string& what) {
  NIBBLE_ASSIGN_OR_RETURN(const auto byte_ids, find_byte_ids(vocabulary, what));
  Bpe bpe(byte_ids, spec.merges.size());
  std::string bytes;
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    const MergeEntry& entry = spec.merges[i];
    const auto problem = [&](const char* text) {
      return Error{ErrorCode::corrupt, fmt::format("{}: model.merges[{}]: \"{}\" \"{}\": {}", what,
                                                   i, entry.left, entry.right, text)};
    };
    bytes.clear();
    const bool left_good = append_stand_in_bytes(bytes, entry.left);
    const size_t left_bytes = bytes.size();
    if (!left_good || !append_stand_in_bytes(bytes, entry.right)) {
      return problem("not written in the byte-level alphabet");
    }
    const std::string_view joined = bytes;
    const auto left = vocabulary.find(joined.substr(0, left_bytes));
    const auto right = vocabulary.find(joined.substr(left_bytes));
    const auto result = vocabulary.find(joined);
    for (const auto& id : {left, right, result}) {
      if (!id || !vocabulary.kind(*id).is_base) return problem("a part or the result is no token");
    }
    if (!bpe.add_merge({*left, *right, *result})) return problem("this pair appears twice");
  }
  return bpe;
}

}  // namespace

Tokenizer::Tokenizer(PreTokenizer pre_tokenizer, Vocabulary vocabulary, Bpe bpe,
                     const TokenizerSpec& spec)
    : pre_tokenizer_(std::move(pre_tokenizer)),
      vocabulary_(std::move(vocabulary)),
      bpe_(std::move(bpe)),
      matcher_(vocabulary_),
      normalizes_nfc_(spec.normalizes_nfc),
      ignores_merges_(spec.ignores_merges) {}

Result<Tokenizer> Tokenizer::build(const TokenizerSpec& spec, const TokenizerConfig& config,
                                   const std::string& what) {
  NIBBLE_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer,
                          PreTokenizer::from_pattern(spec.split_pattern, what));
  NIBBLE_ASSIGN_OR_RETURN(Vocabulary vocabulary, build_vocabulary(spec, config, what));
  NIBBLE_ASSIGN_OR_RETURN(Bpe bpe, build_bpe(spec, vocabulary, what));
  Tokenizer tokenizer(std::move(pre_tokenizer), std::move(vocabulary), std::move(bpe), spec);
  NIBBLE_RETURN_IF_ERROR(tokenizer.name_special_tokens(config, what));
  tokenizer.chat_template_ = config.chat_template;
  return tokenizer;
}

Result<void> Tokenizer::name_special_tokens(const TokenizerConfig& config,
                                            const std::string& what) {
  const auto resolve = [&](const char* field, const std::optional<std::string>& text,
                           std::optional<int32_t>& id) -> Result<void> {
    if (!text) return {};
    id = vocabulary_.find(*text);
    if (id) return {};
    return Error{ErrorCode::corrupt,
                 fmt::format("{}: {}: found \"{}\", expected a token of the vocabulary", what,
                             field, *text)};
  };
  NIBBLE_RETURN_IF_ERROR(resolve("bos_token", config.bos_token, bos_));
  NIBBLE_RETURN_IF_ERROR(resolve("eos_token", config.eos_token, eos_));
  return resolve("pad_token", config.pad_token, pad_);
}

Result<Tokenizer> Tokenizer::load(const std::string& directory_or_file) {
  if (!directory_exists(directory_or_file)) {
    NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_file(directory_or_file));
    NIBBLE_ASSIGN_OR_RETURN(const TokenizerSpec spec,
                            parse_tokenizer_spec(text, directory_or_file));
    return build(spec, {}, directory_or_file);
  }
  const std::string path = directory_or_file + "/tokenizer.json";
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  NIBBLE_ASSIGN_OR_RETURN(const TokenizerSpec spec, parse_tokenizer_spec(text, path));
  TokenizerConfig config;
  const std::string config_path = directory_or_file + "/tokenizer_config.json";
  if (file_exists(config_path)) {
    NIBBLE_ASSIGN_OR_RETURN(const std::string config_text, read_file(config_path));
    NIBBLE_ASSIGN_OR_RETURN(config, parse_tokenizer_config(config_text, config_path));
  }
  return build(spec, config, directory_or_file);
}

Result<Tokenizer> Tokenizer::parse(std::string_view tokenizer_json,
                                   std::string_view tokenizer_config) {
  NIBBLE_ASSIGN_OR_RETURN(const TokenizerSpec spec,
                          parse_tokenizer_spec(tokenizer_json, "tokenizer.json"));
  TokenizerConfig config;
  if (!tokenizer_config.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(config,
                            parse_tokenizer_config(tokenizer_config, "tokenizer_config.json"));
  }
  return build(spec, config, "tokenizer.json");
}

void Tokenizer::encode_plain(std::string_view text, BpeScratch& scratch,
                             std::vector<int32_t>& ids) const {
  std::string normalized;
  if (normalizes_nfc_ && !is_plainly_nfc(text)) {
    normalized = normalize_nfc(text);
    text = normalized;
  }
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = pre_tokenizer_.piece_end(text, begin);
    const std::string_view piece = text.substr(begin, end - begin);
    begin = end;
    if (ignores_merges_) {
      const auto whole = vocabulary_.find(piece);
      if (whole && vocabulary_.kind(*whole).is_base) {
        ids.push_back(*whole);
        continue;
      }
    }
    bpe_.encode(piece, scratch, ids);
  }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, AddedTokens added_tokens) const {
  NIBBLE_CHECK(text.size() < size_t{1} << 31, "text too long", text.size());
  std::string repaired;
  if (!is_valid_utf8(text)) {
    repaired = replace_invalid_utf8(text);
    text = repaired;
  }
  BpeScratch scratch;
  std::vector<int32_t> ids;
  if (added_tokens == AddedTokens::as_text) {
    encode_plain(text, scratch, ids);
    return ids;
  }
  for (size_t begin = 0; begin < text.size();) {
    const AddedTokenMatch match = matcher_.find(text, begin, vocabulary_);
    encode_plain(text.substr(begin, match.begin - begin), scratch, ids);
    if (match.id >= 0) ids.push_back(match.id);
    begin = match.end;
  }
  return ids;
}

std::vector<std::string> Tokenizer::pre_tokenize(std::string_view text) const {
  std::string normalized = replace_invalid_utf8(text);
  if (normalizes_nfc_) normalized = normalize_nfc(normalized);
  std::vector<std::string> pieces;
  for (size_t begin = 0; begin < normalized.size();) {
    const size_t end = pre_tokenizer_.piece_end(normalized, begin);
    pieces.push_back(normalized.substr(begin, end - begin));
    begin = end;
  }
  return pieces;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, SkipSpecial skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (skip_special == SkipSpecial::yes && is_special(id)) continue;
    bytes += token_bytes(id);
  }
  return replace_invalid_utf8(bytes);
}

}  // namespace nibble::tokenizer
