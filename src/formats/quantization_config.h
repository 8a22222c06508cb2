// What a checkpoint says of its own quantization: quantization_config of ModelOpt or of
// compressed-tensors, or ModelOpt's hf_quant_config.json.
//
// Advice only: how a matrix is stored is decided by the tensors in the file (linear_weight.h). Of
// these fields the KV cache scheme is the one that cannot be seen there.
#pragma once

#include "base/json.h"
#include "base/problems.h"
#include "base/result.h"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::formats {

enum class KvCacheScheme { none, fp8 };

struct QuantizationConfig {
  std::string quant_method;  // "modelopt", "compressed-tensors"
  std::string quant_algo;  // "NVFP4", "W4A16_NVFP4", "FP8", "NVFP4_AWQ", "MIXED_PRECISION"
  int64_t group_size = 16;
  KvCacheScheme kv_cache = KvCacheScheme::none;
  std::vector<std::string> ignore;  // ModelOpt: module names, "*" matches any text
  std::map<std::string, std::string, std::less<>> quantized_layers;  // module -> quant_algo
  std::string producer_version;

  /// True when an entry of the ignore list is `module` or a wildcard that matches it.
  bool ignores(std::string_view module) const;
  /// The algorithm the configuration gives a module: "" when it is not quantized. With
  /// MIXED_PRECISION the longest entry of quantized_layers that is `module` or one of its parents
  /// decides, else quant_algo for all that is not ignored.
  std::string algorithm_for(std::string_view module) const;
};

/// True when `pattern` matches all of `text`; "*" stands for any run of characters.
bool wildcard_match(std::string_view pattern, std::string_view text);

/// From the object quantization_config of config.json. Faults go to `problems`, each starting with
/// the field's name.
QuantizationConfig parse_quantization_config(const Json& object, Problems& problems);

/// From the whole of hf_quant_config.json.
QuantizationConfig parse_hf_quant_config(const Json& file, Problems& problems);

}  // namespace nibble::formats
