#include "quantize/format_plan.h"

#include "base/problems.h"
#include "formats/nvfp4.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <optional>

namespace nibble::quantize {
namespace {

using formats::LayerType;
using formats::ModelConfig;
using model::Member;
using model::NamePrefix;

constexpr std::array kExpertMembers = {Member::experts_gate_up, Member::experts_down,
                                       Member::expert_gate, Member::expert_up, Member::expert_down};
constexpr std::array kSharedMembers = {Member::shared_gate, Member::shared_up, Member::shared_down};
constexpr std::array kAttentionMembers = {Member::q_proj, Member::k_proj, Member::v_proj,
                                          Member::o_proj};
// The module's order of definition, which is ModelOpt's order of writing.
constexpr std::array kDeltaMembers = {Member::out_proj, Member::in_proj_qkv, Member::in_proj_z,
                                      Member::in_proj_b, Member::in_proj_a};

std::optional<ModuleFormat> parse_module_format(std::string_view name) {
  for (const ModuleFormat format : {ModuleFormat::bf16, ModuleFormat::fp8, ModuleFormat::nvfp4,
                                    ModuleFormat::nvfp4_weight_only}) {
    if (name == module_format_name(format)) return format;
  }
  return std::nullopt;
}

// '*' matches any text, everything else itself.
bool matches(std::string_view pattern, std::string_view name) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == name;
  if (!name.starts_with(pattern.substr(0, star))) return false;
  const std::string_view rest = pattern.substr(star + 1);
  for (size_t skip = star; skip <= name.size(); ++skip) {
    if (matches(rest, name.substr(skip))) return true;
  }
  return false;
}

bool is_expert(Member member) {
  return std::find(kExpertMembers.begin(), kExpertMembers.end(), member) != kExpertMembers.end();
}

// The name a rule's pattern is compared with.
std::string module_name(const NamePrefix& prefix, Member member, int layer) {
  if (!is_expert(member)) return prefix.stem(member, layer);
  return prefix.text + "layers." + std::to_string(layer) + ".mlp.experts";
}

class PlanMaker {
 public:
  PlanMaker(const ModelConfig& config, const NamePrefix& prefix, std::span<const FormatRule> rules,
            MemberTable<ModuleFormat>& formats)
      : config_(config), prefix_(prefix), rules_(rules), used_(rules.size()), formats_(formats) {}

  void set(Member member, int layer, ModuleFormat format) {
    const std::string name = module_name(prefix_, member, layer);
    for (size_t i = 0; i < rules_.size(); ++i) {
      if (!matches(rules_[i].pattern, name)) continue;
      format = rules_[i].format;
      used_[i] = true;
    }
    formats_.at(member, layer) = format;
    if (!is_nvfp4(format) || model::rule_of(member).kind == model::TensorKind::bank) return;
    const int64_t columns = model::expected_shape(member, config_)[1];
    if (columns % formats::kNvfp4Block != 0) {
      problems_.add(fmt::format("{}: rows of {} elements, expected a multiple of 16 for NVFP4",
                                name, columns));
    }
  }

  // Loaders fuse these: one format or none works.
  void same(std::initializer_list<Member> members, int layer) {
    const Member first = *members.begin();
    for (const Member member : members) {
      if (formats_.at(member, layer) == formats_.at(first, layer)) continue;
      problems_.add(
          fmt::format("{}: {}, expected {} as {}: loaders fuse the two",
                      prefix_.stem(member, layer), module_format_name(formats_.at(member, layer)),
                      module_format_name(formats_.at(first, layer)), prefix_.stem(first, layer)));
    }
  }

  Result<void> result(const std::string& what) {
    for (size_t i = 0; i < rules_.size(); ++i) {
      if (!used_[i]) problems_.add(fmt::format("rule '{}': matches no module", rules_[i].pattern));
    }
    return problems_.empty() ? Result<void>() : problems_.error(ErrorCode::invalid_argument, what);
  }

  Problems& problems() { return problems_; }

 private:
  const ModelConfig& config_;
  const NamePrefix& prefix_;
  std::span<const FormatRule> rules_;
  std::vector<bool> used_;
  MemberTable<ModuleFormat>& formats_;
  Problems problems_;
};

}  // namespace

Result<std::vector<FormatRule>> parse_format_rules(const std::string& text,
                                                   const std::string& path) {
  std::vector<FormatRule> rules;
  Problems problems;
  size_t begin = 0;
  for (int number = 1; begin < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    line = line.substr(0, line.find('#'));
    std::vector<std::string> words;
    for (size_t at = 0; (at = line.find_first_not_of(" \t\r", at)) != std::string_view::npos;) {
      const size_t stop = std::min(line.find_first_of(" \t\r", at), line.size());
      words.emplace_back(line.substr(at, stop - at));
      at = stop;
    }
    if (words.empty()) continue;
    const auto format = words.size() == 2 ? parse_module_format(words[1]) : std::nullopt;
    if (!format) {
      problems.add(fmt::format(
          "line {}: expected a name pattern and one of bf16, fp8, nvfp4, nvfp4-weight-only",
          number));
      continue;
    }
    rules.push_back({words[0], *format});
  }
  if (!problems.empty()) return problems.error(ErrorCode::invalid_argument, path);
  return rules;
}

Result<FormatPlan> FormatPlan::make(const ModelConfig& config, const NamePrefix& prefix,
                                    const Recipe& recipe, const Compat& compat,
                                    std::span<const FormatRule> rules) {
  FormatPlan plan;
  plan.formats_ = MemberTable<ModuleFormat>(config.layer_types.size());
  plan.layer_types_ = config.layer_types;
  plan.kv_ = recipe.kv;
  PlanMaker maker(config, prefix, rules, plan.formats_);
  // 0.44 quantizes the two small projections of a delta net with their siblings (nvfp4.md 1.7).
  const bool small_too =
      compat.version == Compat::Version::modelopt_0_44 && recipe.delta_net == ModuleFormat::nvfp4;
  for (int layer = 0; layer < static_cast<int>(config.layer_types.size()); ++layer) {
    for (const Member member : kExpertMembers) maker.set(member, layer, recipe.routed_experts);
    for (const Member member : kSharedMembers) maker.set(member, layer, recipe.shared_expert);
    for (const Member member : plan.dense_members(layer)) {
      const bool small = member == Member::in_proj_a || member == Member::in_proj_b;
      if (small && !small_too) continue;
      maker.set(member, layer, small ? recipe.delta_net : recipe.format_of(member));
    }
    maker.same({Member::shared_gate, Member::shared_up, Member::shared_down}, layer);
    maker.same({Member::q_proj, Member::k_proj, Member::v_proj}, layer);
    maker.same({Member::in_proj_qkv, Member::in_proj_z}, layer);
  }
  maker.set(Member::lm_head, kOutsideLayers, recipe.lm_head);
  if (config.tie_word_embeddings &&
      plan.of(Member::lm_head, kOutsideLayers) != ModuleFormat::bf16) {
    maker.problems().add("lm_head: is the embedding table in this model, which stays BF16");
  }
  NIBBLE_RETURN_IF_ERROR(maker.result("--recipe " + recipe.name));
  return plan;
}

bool FormatPlan::has_kv_scales(int layer) const {
  return kv_ == KvScheme::fp8_calibrated &&
         layer_types_[static_cast<size_t>(layer)] == LayerType::full_attention;
}

std::vector<Member> FormatPlan::dense_members(int layer) const {
  if (layer_types_[static_cast<size_t>(layer)] == LayerType::full_attention) {
    return {kAttentionMembers.begin(), kAttentionMembers.end()};
  }
  return {kDeltaMembers.begin(), kDeltaMembers.end()};
}

Member scale_leader(Member member) {
  switch (member) {
    case Member::expert_up:
      return Member::expert_gate;
    case Member::shared_up:
      return Member::shared_gate;
    case Member::k_proj:
    case Member::v_proj:
      return Member::q_proj;
    case Member::in_proj_z:
    case Member::in_proj_a:
    case Member::in_proj_b:
      return Member::in_proj_qkv;
    default:
      return member;
  }
}

}  // namespace nibble::quantize
