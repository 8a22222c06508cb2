// generation_config.json: the checkpoint's own sampling defaults and end-of-turn tokens.
//
// Absent fields stay empty: what then applies is decided by who samples, not here.
#pragma once

#include "base/result.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::formats {

struct GenerationConfig {
  std::vector<int64_t> eos_token_id;  // none, one or several; the file has an integer or a list
  std::optional<int64_t> bos_token_id;
  std::optional<int64_t> pad_token_id;
  std::optional<bool> do_sample;
  std::optional<double> temperature;
  std::optional<int64_t> top_k;  // 0: off
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
};

/// Every problem is listed in one message; unknown fields are ignored.
Result<GenerationConfig> parse_generation_config(std::string_view text, const std::string& what);

/// DIRECTORY/generation_config.json; an empty GenerationConfig when there is no such file.
Result<GenerationConfig> load_generation_config(const std::string& directory);

}  // namespace nibble::formats
