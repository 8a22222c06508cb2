// FormatPlan: what every linear layer of one model is stored as: a recipe, refined by rules,
// applied to its layers.
//
// Exporter, configuration and scale table ask it; nobody else decides formats. Modules that loaders
// fuse have one format: the experts of a layer, the shared expert's three, q/k/v, in_proj_qkv/z.
#pragma once

#include "base/result.h"
#include "formats/hf_config.h"
#include "quantize/member_table.h"
#include "quantize/recipe.h"

#include <span>
#include <string>
#include <vector>

namespace nibble::quantize {

/// One line of a rules file: modules whose name matches `pattern` get `format`.
struct FormatRule {
  std::string
      pattern;  // '*' stands for anything; names without ".weight", experts as ".mlp.experts"
  ModuleFormat format = ModuleFormat::bf16;
};

/// Rules from text: a line "PATTERN FORMAT", '#' begins a comment; later lines win. Every bad line
/// is listed (invalid_argument).
Result<std::vector<FormatRule>> parse_format_rules(const std::string& text,
                                                   const std::string& path);

class FormatPlan {
 public:
  /// Errors (invalid_argument), all listed: rules that match nothing, that split modules which
  /// loaders fuse, a tied lm_head to be quantized, row lengths that are no multiple of 16 for
  /// NVFP4.
  static Result<FormatPlan> make(const formats::ModelConfig& config,
                                 const model::NamePrefix& prefix, const Recipe& recipe,
                                 const Compat& compat, std::span<const FormatRule> rules = {});

  /// layer: kOutsideLayers for lm_head. Fused banks answer for their experts.
  ModuleFormat of(model::Member member, int layer) const { return formats_.at(member, layer); }
  KvScheme kv() const { return kv_; }
  bool has_kv_scales(int layer) const;
  const std::vector<formats::LayerType>& layer_types() const { return layer_types_; }

  /// Linear members of a layer apart from its experts, in ModelOpt's order.
  std::vector<model::Member> dense_members(int layer) const;

 private:
  MemberTable<ModuleFormat> formats_;
  std::vector<formats::LayerType> layer_types_;
  KvScheme kv_ = KvScheme::none;
};

/// The member that stands for all that must carry one tensor scale and one input scale in NVFP4
/// (nvfp4.md 1.7): gate for up; q for k and v; in_proj_qkv for in_proj_z, a and b; else itself.
model::Member scale_leader(model::Member member);

}  // namespace nibble::quantize
