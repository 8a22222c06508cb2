#include "formats/generation_config.h"

#include "base/file.h"
#include "formats/json_fields.h"

#include <nlohmann/json.hpp>

namespace nibble::formats {

Result<GenerationConfig> parse_generation_config(std::string_view text, const std::string& what) {
  NIBBLE_ASSIGN_OR_RETURN(const Json json, parse_json(text, what));
  if (!json.is_object()) {
    return Error{ErrorCode::corrupt, what + ": expected an object"};
  }
  constexpr int64_t kMaxId = INT32_MAX;
  Problems problems;
  const JsonFields fields(json, "", problems);
  GenerationConfig config;
  config.eos_token_id = fields.integers("eos_token_id", 0, kMaxId);
  config.bos_token_id = fields.optional_integer("bos_token_id", 0, kMaxId);
  config.pad_token_id = fields.optional_integer("pad_token_id", 0, kMaxId);
  config.do_sample = fields.optional_boolean("do_sample");
  config.temperature = fields.optional_number("temperature", 0.0, 100.0);
  config.top_k = fields.optional_integer("top_k", 0, kMaxId);
  config.top_p = fields.optional_number("top_p", 0.0, 1.0);
  config.min_p = fields.optional_number("min_p", 0.0, 1.0);
  config.repetition_penalty = fields.optional_number("repetition_penalty", 1e-3, 1e3);
  if (!problems.empty()) return problems.error(ErrorCode::corrupt, what);
  return config;
}

Result<GenerationConfig> load_generation_config(const std::string& directory) {
  const std::string path = directory + "/generation_config.json";
  if (!file_exists(path)) return GenerationConfig{};
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  return parse_generation_config(text, path);
}

}  // namespace nibble::formats
