// One function per member of the file; each says what it accepts and refuses the rest.
#include "tokenizer/tokenizer_spec.h"

#include "tokenizer/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <utility>

namespace nibble::tokenizer {
namespace {

// A JSON value with its path, for errors.
struct Field {
  const Json* json;  // null JSON when absent
  std::string path;  // "tokenizer.json: model"

  Field member(const char* key) const {
    static const Json kAbsent;
    const auto it = json->find(key);
    return {it == json->end() ? &kAbsent : &*it, path + "." + key};
  }

  Error refuse(const std::string& wanted) const {
    return Error{ErrorCode::unsupported, fmt::format("{}: found {}, expected {}", path,
                                                     dump_json(*json).substr(0, 120), wanted)};
  }
};

Result<void> expect_keys(const Field& object, std::initializer_list<const char*> known) {
  if (!object.json->is_object()) return object.refuse("an object");
  for (const auto& [key, value] : object.json->items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return Error{ErrorCode::unsupported, fmt::format("{}: unknown field \"{}\" ({})", object.path,
                                                       key, dump_json(value).substr(0, 80))};
    }
  }
  return {};
}

Result<void> expect_text(const Field& field, const char* wanted) {
  if (field.json->is_string() && field.json->get_ref<const std::string&>() == wanted) return {};
  return field.refuse(fmt::format("\"{}\"", wanted));
}

Result<void> expect_false_or_absent(const Field& field) {
  if (field.json->is_null() || (field.json->is_boolean() && !field.json->get<bool>())) return {};
  return field.refuse("false");
}

Result<void> expect_null(const Field& field) {
  if (field.json->is_null()) return {};
  return field.refuse("null");
}

Result<void> expect_null_or_empty(const Field& field) {
  if (field.json->is_null() || *field.json == "") return {};
  return field.refuse("null or \"\"");
}

Result<bool> bool_or_false(const Field& field) {
  if (field.json->is_null()) return false;
  if (field.json->is_boolean()) return field.json->get<bool>();
  return field.refuse("true or false");
}

Result<AddedTokenSpec> parse_added_token(const Field& token, int32_t id) {
  for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) {
    NIBBLE_RETURN_IF_ERROR(expect_false_or_absent(token.member(flag)));
  }
  const Field content = token.member("content");
  if (!content.json->is_string() || content.json->get_ref<const std::string&>().empty()) {
    return content.refuse("a string that is not empty");
  }
  NIBBLE_ASSIGN_OR_RETURN(const bool is_special, bool_or_false(token.member("special")));
  return AddedTokenSpec{id, content.json->get<std::string>(), is_special};
}

Result<std::vector<AddedTokenSpec>> parse_added_tokens(const Field& list) {
  std::vector<AddedTokenSpec> out;
  if (list.json->is_null()) return out;
  if (!list.json->is_array()) return list.refuse("an array");
  for (size_t i = 0; i < list.json->size(); ++i) {
    const Field token{&(*list.json)[i], fmt::format("{}[{}]", list.path, i)};
    NIBBLE_RETURN_IF_ERROR(expect_keys(
        token, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
    const Field id = token.member("id");
    if (!id.json->is_number_unsigned() || id.json->get<uint64_t>() > kMaxTokenId) {
      return id.refuse(fmt::format("an integer from 0 to {}", kMaxTokenId));
    }
    NIBBLE_ASSIGN_OR_RETURN(AddedTokenSpec spec, parse_added_token(token, id.json->get<int32_t>()));
    out.push_back(std::move(spec));
  }
  return out;
}

Result<bool> parse_normalizer(const Field& normalizer) {
  if (normalizer.json->is_null()) return false;
  NIBBLE_RETURN_IF_ERROR(expect_keys(normalizer, {"type"}));
  NIBBLE_RETURN_IF_ERROR(expect_text(normalizer.member("type"), "NFC"));
  return true;
}

// The byte-level step: as pre-tokenizer it must neither add a space nor split; as decoder and
// post-processor its flags change offsets only.
Result<void> check_byte_level(const Field& step, bool is_pre_tokenizer) {
  NIBBLE_RETURN_IF_ERROR(
      expect_keys(step, {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  NIBBLE_RETURN_IF_ERROR(expect_text(step.member("type"), "ByteLevel"));
  if (!is_pre_tokenizer) return {};
  for (const char* flag : {"add_prefix_space", "use_regex"}) {
    // Absent means true to the reference.
    const Field field = step.member(flag);
    if (!field.json->is_boolean() || field.json->get<bool>()) return field.refuse("false");
  }
  return {};
}

Result<std::string> parse_split(const Field& split) {
  NIBBLE_RETURN_IF_ERROR(expect_keys(split, {"type", "pattern", "behavior", "invert"}));
  NIBBLE_RETURN_IF_ERROR(expect_text(split.member("type"), "Split"));
  NIBBLE_RETURN_IF_ERROR(expect_text(split.member("behavior"), "Isolated"));
  NIBBLE_RETURN_IF_ERROR(expect_false_or_absent(split.member("invert")));
  const Field pattern = split.member("pattern");
  NIBBLE_RETURN_IF_ERROR(expect_keys(pattern, {"Regex"}));
  const Field regex = pattern.member("Regex");
  if (!regex.json->is_string()) return regex.refuse("a string");
  return regex.json->get<std::string>();
}

Result<std::string> parse_pre_tokenizer(const Field& pre_tokenizer) {
  NIBBLE_RETURN_IF_ERROR(expect_keys(pre_tokenizer, {"type", "pretokenizers"}));
  NIBBLE_RETURN_IF_ERROR(expect_text(pre_tokenizer.member("type"), "Sequence"));
  const Field list = pre_tokenizer.member("pretokenizers");
  if (!list.json->is_array() || list.json->size() != 2) {
    return list.refuse("two steps, Split and ByteLevel");
  }
  NIBBLE_RETURN_IF_ERROR(check_byte_level({&(*list.json)[1], list.path + "[1]"}, true));
  return parse_split({&(*list.json)[0], list.path + "[0]"});
}

Result<bool> parse_model(const Field& model) {
  NIBBLE_RETURN_IF_ERROR(expect_keys(
      model, {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
              "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"}));
  NIBBLE_RETURN_IF_ERROR(expect_text(model.member("type"), "BPE"));
  NIBBLE_RETURN_IF_ERROR(expect_null(model.member("dropout")));
  NIBBLE_RETURN_IF_ERROR(expect_null(model.member("unk_token")));
  NIBBLE_RETURN_IF_ERROR(expect_null_or_empty(model.member("continuing_subword_prefix")));
  NIBBLE_RETURN_IF_ERROR(expect_null_or_empty(model.member("end_of_word_suffix")));
  NIBBLE_RETURN_IF_ERROR(expect_false_or_absent(model.member("fuse_unk")));
  NIBBLE_RETURN_IF_ERROR(expect_false_or_absent(model.member("byte_fallback")));
  return bool_or_false(model.member("ignore_merges"));
}

// A special token of the configuration: null, a string, or an object with "content".
Result<std::optional<std::string>> parse_token_name(const Field& field) {
  if (field.json->is_null()) return std::optional<std::string>();
  if (field.json->is_object()) return parse_token_name(field.member("content"));
  if (!field.json->is_string()) return field.refuse("a string");
  return std::optional<std::string>(field.json->get<std::string>());
}

Result<std::vector<AddedTokenSpec>> parse_added_tokens_decoder(const Field& decoder) {
  std::vector<AddedTokenSpec> out;
  if (decoder.json->is_null()) return out;
  if (!decoder.json->is_object()) return decoder.refuse("an object");
  for (const auto& [key, value] : decoder.json->items()) {
    const Field token{&value, fmt::format("{}[\"{}\"]", decoder.path, key)};
    NIBBLE_RETURN_IF_ERROR(expect_keys(
        token, {"content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
    int32_t id = -1;
    const auto [end, problem] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (problem != std::errc() || end != key.data() + key.size() || id < 0) {
      return Error{ErrorCode::corrupt, fmt::format("{}: the key is no token id", token.path)};
    }
    NIBBLE_ASSIGN_OR_RETURN(AddedTokenSpec spec, parse_added_token(token, id));
    out.push_back(std::move(spec));
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return out;
}

}  // namespace

Result<TokenizerSpec> parse_tokenizer_spec(std::string_view json, const std::string& what) {
  NIBBLE_ASSIGN_OR_RETURN(TokenizerJson file, read_tokenizer_json(json, what));
  const Field root{&file.rest, what + ": $"};
  NIBBLE_RETURN_IF_ERROR(
      expect_keys(root, {"version", "truncation", "padding", "added_tokens", "normalizer",
                         "pre_tokenizer", "post_processor", "decoder", "model"}));
  NIBBLE_RETURN_IF_ERROR(expect_text(root.member("version"), "1.0"));
  NIBBLE_RETURN_IF_ERROR(expect_null(root.member("truncation")));
  NIBBLE_RETURN_IF_ERROR(expect_null(root.member("padding")));
  NIBBLE_RETURN_IF_ERROR(check_byte_level(root.member("decoder"), false));
  if (const Field step = root.member("post_processor"); !step.json->is_null()) {
    NIBBLE_RETURN_IF_ERROR(check_byte_level(step, false));
  }
  TokenizerSpec spec;
  NIBBLE_ASSIGN_OR_RETURN(spec.normalizes_nfc, parse_normalizer(root.member("normalizer")));
  NIBBLE_ASSIGN_OR_RETURN(spec.split_pattern, parse_pre_tokenizer(root.member("pre_tokenizer")));
  NIBBLE_ASSIGN_OR_RETURN(spec.ignores_merges, parse_model(root.member("model")));
  NIBBLE_ASSIGN_OR_RETURN(spec.added_tokens, parse_added_tokens(root.member("added_tokens")));
  if (!file.has_vocab) return root.member("model").member("vocab").refuse("an object");
  if (!file.has_merges) return root.member("model").member("merges").refuse("an array");
  spec.vocab = std::move(file.vocab);
  spec.merges = std::move(file.merges);
  return spec;
}

Result<TokenizerConfig> parse_tokenizer_config(std::string_view json, const std::string& what) {
  NIBBLE_ASSIGN_OR_RETURN(const Json document, parse_json(json, what));
  const Field root{&document, what + ": $"};
  if (!document.is_object()) return root.refuse("an object");
  for (const char* flag : {"add_bos_token", "add_eos_token", "add_prefix_space",
                           "clean_up_tokenization_spaces", "split_special_tokens"}) {
    NIBBLE_RETURN_IF_ERROR(expect_false_or_absent(root.member(flag)));
  }
  TokenizerConfig config;
  NIBBLE_ASSIGN_OR_RETURN(config.added_tokens,
                          parse_added_tokens_decoder(root.member("added_tokens_decoder")));
  NIBBLE_ASSIGN_OR_RETURN(config.bos_token, parse_token_name(root.member("bos_token")));
  NIBBLE_ASSIGN_OR_RETURN(config.eos_token, parse_token_name(root.member("eos_token")));
  NIBBLE_ASSIGN_OR_RETURN(config.pad_token, parse_token_name(root.member("pad_token")));
  const Field chat_template = root.member("chat_template");
  if (chat_template.json->is_string()) {
    config.chat_template = chat_template.json->get<std::string>();
  } else if (!chat_template.json->is_null()) {
    return chat_template.refuse("a string");
  }
  return config;
}

}  // namespace nibble::tokenizer
