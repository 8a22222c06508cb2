// Recipes: which tensors become NVFP4, and how the result is written (design.md 5).
//
// A recipe says what; Compat says whose bytes and whose configuration.
#pragma once

#include "base/result.h"
#include "formats/nvfp4_encode.h"
#include "model/tensor_rules.h"

#include <string>
#include <vector>

namespace nibble::quantize {

/// Whose output is reproduced.
struct Compat {
  /// 0.44 or 0.47 of ModelOpt, bytes and configuration; none: the bytes of 0.47 on CUDA with our
  /// configuration.
  enum class Version { none, modelopt_0_44, modelopt_0_47 };
  Version version = Version::none;
  formats::Nvfp4Rules rules;

  /// "modelopt-0.44-cpu" and so on; "" for none.
  static Result<Compat> parse(const std::string& name);
};

struct Recipe {
  std::string name;
  std::string quant_algo;  // of quantization_config
  bool fp8_kv = false;  // KV cache scheme FP8, with k_scale and v_scale
  bool input_scales = false;

  static Result<Recipe> find(const std::string& name);
  /// True if the linear member is quantized to NVFP4.
  bool quantizes(model::Member member) const;
};

}  // namespace nibble::quantize
