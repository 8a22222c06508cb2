#include "model/checkpoint_source.h"

#include "base/problems.h"
#include "formats/bf16.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>

namespace nibble::model {
namespace {

using formats::LayerType;
using formats::LinearWeight;
using formats::WeightFormat;

constexpr std::array kTextPrefixes = {"model.language_model.", "language_model.model.", "model."};

// Suffixes that may follow a linear weight's stem.
constexpr std::array<std::string_view, 7> kLinearSuffixes = {
    ".weight",        ".weight_scale",        ".weight_scale_2",    ".input_scale",
    ".weight_packed", ".weight_global_scale", ".input_global_scale"};

bool contains(std::span<const std::string_view> list, std::string_view text) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

Result<NamePrefix> detect_prefix(const formats::Checkpoint& checkpoint) {
  for (const char* text : kTextPrefixes) {
    const NamePrefix prefix{text, ""};
    if (checkpoint.find(prefix.name(Member::embed_tokens, -1)) == nullptr) continue;
    const bool nested = checkpoint.find("language_model.lm_head.weight") != nullptr;
    return NamePrefix{text, nested ? "language_model." : ""};
  }
  return Error{ErrorCode::corrupt, checkpoint.path() +
                                       ": no embed_tokens.weight below any of the prefixes " +
                                       "model.language_model., language_model.model., model."};
}

// What is wrong with a name, or empty.
std::string name_problem(std::string_view name, const NamePrefix& prefix,
                         const formats::ModelConfig& config) {
  const std::optional<ParsedName> parsed = parse_name(name, prefix);
  if (!parsed) return is_kv_scale(name) ? "" : "unknown tensor";
  const TensorRule& rule = rule_of(parsed->member);
  if (rule.scope != Scope::global) {
    if (parsed->layer >= config.num_hidden_layers) {
      return fmt::format("layer {}, but num_hidden_layers is {}", parsed->layer,
                         config.num_hidden_layers);
    }
    const LayerType type = config.layer_types[static_cast<size_t>(parsed->layer)];
    if (!occurs_in(rule, type)) {
      return fmt::format("layer {} is {}, which has no such tensor", parsed->layer,
                         formats::layer_type_name(type));
    }
  }
  if (parsed->expert >= config.num_experts) {
    return fmt::format("expert {}, but num_experts is {}", parsed->expert, config.num_experts);
  }
  const bool known = rule.kind == TensorKind::linear
                         ? contains(kLinearSuffixes, parsed->rest) || is_kv_scale(name)
                         : parsed->rest == rule.suffix;
  return known ? "" : fmt::format("unknown suffix \"{}\"", parsed->rest);
}

}  // namespace

Result<std::unique_ptr<CheckpointSource>> CheckpointSource::open(
    const formats::Checkpoint& checkpoint, const formats::ModelConfig& config) {
  NIBBLE_ASSIGN_OR_RETURN(NamePrefix prefix, detect_prefix(checkpoint));
  auto source = std::unique_ptr<CheckpointSource>(
      new CheckpointSource(checkpoint, config, std::move(prefix)));
  NIBBLE_RETURN_IF_ERROR(source->validate());
  return source;
}

bool CheckpointSource::has_fused_experts(int layer) const {
  return checkpoint_.find(prefix_.name(Member::experts_gate_up, layer)) != nullptr;
}

// Collects every fault of the checkpoint before anything is loaded.
class CheckpointValidator {
 public:
  CheckpointValidator(const formats::Checkpoint& checkpoint, const formats::ModelConfig& config,
                      const NamePrefix& prefix)
      : checkpoint_(checkpoint), config_(config), prefix_(prefix) {}

  Result<void> run(const CheckpointSource& source) {
    for (const std::string_view name : checkpoint_.names()) {
      if (is_other_part(name)) continue;
      const std::string problem = name_problem(name, prefix_, config_);
      if (!problem.empty()) problems_.add(fmt::format("{}: {}", name, problem));
    }
    plain(Member::embed_tokens, -1);
    plain(Member::final_norm, -1);
    if (!config_.tie_word_embeddings) linear(Member::lm_head, -1, 0);
    for (int layer = 0; layer < config_.num_hidden_layers; ++layer) check_layer(source, layer);
    if (problems_.empty()) return {};
    return problems_.error(ErrorCode::corrupt, checkpoint_.path());
  }

 private:
  void check_layer(const CheckpointSource& source, int layer) {
    const LayerType type = config_.layer_types[static_cast<size_t>(layer)];
    for (const TensorRule& rule : tensor_rules()) {
      if (!occurs_in(rule, type)) continue;
      const bool expert = rule.shard_axis == ShardAxis::experts;
      if (rule.kind == TensorKind::plain) plain(rule.member, layer);
      if (rule.kind == TensorKind::linear && !expert) linear(rule.member, layer, 0);
      if (rule.kind == TensorKind::bank && source.has_fused_experts(layer))
        plain(rule.member, layer);
    }
    if (!source.has_fused_experts(layer)) check_experts(layer);
    same_format({Member::shared_gate, Member::shared_up, Member::shared_down}, layer, 1);
    for (const Member member : {Member::k_proj, Member::v_proj}) {
      for (const std::string& name : kv_scale_names(prefix_, member, layer)) check_scale(name);
    }
  }

  void check_experts(int layer) {
    for (int64_t e = 0; e < config_.num_experts; ++e) {
      for (const Member member : {Member::expert_gate, Member::expert_up, Member::expert_down}) {
        linear(member, layer, e);
      }
    }
    same_format({Member::expert_gate, Member::expert_up, Member::expert_down}, layer,
                config_.num_experts);
  }

  // A bank is packed with one stride, so all its matrices must be stored alike.
  void same_format(std::initializer_list<Member> members, int layer, int64_t count) {
    std::set<std::string> found;
    for (int64_t e = 0; e < count; ++e) {
      for (const Member member : members) {
        const auto format =
            formats::stored_weight_format(checkpoint_, prefix_.stem(member, layer, e));
        if (format.ok()) found.insert(formats::weight_format_name(format.value()));
      }
    }
    if (found.size() > 1) {
      problems_.add(
          fmt::format("layer {}: its experts are stored in several formats ({}), expected one",
                      layer, fmt::join(found, ", ")));
    }
  }

  void plain(Member member, int layer) {
    const std::string name = prefix_.name(member, layer);
    const formats::TensorInfo* tensor = checkpoint_.find(name);
    const Shape wanted = expected_shape(member, config_);
    if (tensor == nullptr) {
      problems_.add(fmt::format("{}: missing, expected shape {}", name, to_string(wanted)));
    } else if (!(tensor->shape == wanted)) {
      problems_.add(fmt::format("{}: shape {}, expected {}", name, to_string(tensor->shape),
                                to_string(wanted)));
    } else if (tensor->dtype != DType::bf16 && tensor->dtype != DType::f32) {
      problems_.add(fmt::format("{}: {}, expected BF16 or F32", name, dtype_name(tensor->dtype)));
    } else if (tensor->dtype == DType::f32 &&
               (member == Member::embed_tokens || rule_of(member).kind == TensorKind::bank)) {
      problems_.add(fmt::format("{}: F32, expected BF16", name));
    }
  }

  void linear(Member member, int layer, int64_t expert) {
    const std::string stem = prefix_.stem(member, layer, expert);
    const Shape wanted = expected_shape(member, config_);
    const auto weight = formats::load_linear_weight(checkpoint_, stem, formats::ValueCheck::scan);
    if (!weight.ok()) {
      problems_.add(weight.error().message);
      return;
    }
    const LinearWeight& found = weight.value();
    if (found.out_features != wanted[0] || found.in_features != wanted[1]) {
      problems_.add(fmt::format("{}.weight: {} matrix of [{},{}], expected {}", stem,
                                formats::weight_format_name(found.format), found.out_features,
                                found.in_features, to_string(wanted)));
    }
    if (found.format == WeightFormat::f32) {
      problems_.add(fmt::format("{}.weight: F32, expected BF16, FP8 or NVFP4", stem));
    }
  }

  void check_scale(const std::string& name) {
    const ConstTensorView view = checkpoint_.view(name);
    if (view.empty()) return;
    float value = 0;
    if (view.dtype() == DType::f32 && view.shape().elements() == 1) {
      std::memcpy(&value, view.data(), sizeof value);
    }
    if (!(value > 0) || !std::isfinite(value)) {
      problems_.add(fmt::format("{}: {} {} {}, expected one finite F32 above zero", name,
                                dtype_name(view.dtype()), to_string(view.shape()), value));
    }
  }

  const formats::Checkpoint& checkpoint_;
  const formats::ModelConfig& config_;
  const NamePrefix& prefix_;
  Problems problems_;
};

Result<void> CheckpointSource::validate() {
  return CheckpointValidator(checkpoint_, config_, prefix_).run(*this);
}

WeightFormat CheckpointSource::stored_format(Member member, int layer, int64_t expert) const {
  const auto format =
      formats::stored_weight_format(checkpoint_, prefix_.stem(member, layer, expert));
  NIBBLE_CHECK(format.ok(), "validated tensor", prefix_.stem(member, layer, expert));
  return format.value();
}

WeightFormat CheckpointSource::format(Member member, int layer) const {
  if (member == Member::lm_head && config_.tie_word_embeddings) return WeightFormat::bf16;
  return stored_format(member, layer, 0);
}

WeightFormat CheckpointSource::expert_format(int layer, bool shared) const {
  if (shared) return stored_format(Member::shared_gate, layer, 0);
  if (has_fused_experts(layer)) return WeightFormat::bf16;
  return stored_format(Member::expert_gate, layer, 0);
}

Result<LinearWeight> CheckpointSource::named_linear(Member member, int layer,
                                                    int64_t expert) const {
  // Values were scanned by validate().
  return formats::load_linear_weight(checkpoint_, prefix_.stem(member, layer, expert),
                                     formats::ValueCheck::skip);
}

Result<LinearWeight> CheckpointSource::linear(Member member, int layer) {
  if (member == Member::lm_head && config_.tie_word_embeddings) {
    return formats::plain_linear_weight(checkpoint_.view(prefix_.name(Member::embed_tokens, -1)));
  }
  return named_linear(member, layer, 0);
}

Result<ExpertWeights> CheckpointSource::expert(int layer, int64_t index) {
  if (index != kSharedExpert && has_fused_experts(layer)) {
    const formats::FusedExpert fused =
        formats::fused_expert(checkpoint_.view(prefix_.name(Member::experts_gate_up, layer)),
                              checkpoint_.view(prefix_.name(Member::experts_down, layer)), index);
    return ExpertWeights{fused.gate, fused.up, fused.down};
  }
  const bool shared = index == kSharedExpert;
  const int64_t expert = shared ? 0 : index;
  ExpertWeights out;
  NIBBLE_ASSIGN_OR_RETURN(
      out.gate, named_linear(shared ? Member::shared_gate : Member::expert_gate, layer, expert));
  NIBBLE_ASSIGN_OR_RETURN(
      out.up, named_linear(shared ? Member::shared_up : Member::expert_up, layer, expert));
  NIBBLE_ASSIGN_OR_RETURN(
      out.down, named_linear(shared ? Member::shared_down : Member::expert_down, layer, expert));
  return out;
}

Result<std::vector<float>> CheckpointSource::vector(Member member, int layer) {
  const ConstTensorView view = checkpoint_.view(prefix_.name(member, layer));
  std::vector<float> out(static_cast<size_t>(view.shape().elements()));
  if (view.dtype() == DType::f32) {
    std::memcpy(out.data(), view.data(), view.bytes());
    return out;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, view.data() + 2 * i, sizeof bits);
    out[i] = formats::bf16_to_f32(bits);
  }
  return out;
}

Result<ConstTensorView> CheckpointSource::embedding() {
  return checkpoint_.view(prefix_.name(Member::embed_tokens, -1));
}

Result<std::pair<float, float>> CheckpointSource::kv_scales(int layer) {
  const auto scale = [&](Member member) {
    for (const std::string& name : kv_scale_names(prefix_, member, layer)) {
      const ConstTensorView view = checkpoint_.view(name);
      if (view.empty()) continue;
      float value = 1.0f;
      std::memcpy(&value, view.data(), sizeof value);  // unaligned in the file
      return value;
    }
    return 1.0f;
  };
  return std::pair(scale(Member::k_proj), scale(Member::v_proj));
}

}  // namespace nibble::model
