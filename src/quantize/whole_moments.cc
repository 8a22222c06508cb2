#include "quantize/whole_moments.h"

#include "quantize/format_plan.h"

#include <cmath>

namespace nibble::quantize {
namespace {

using device::InputMoments;
using model::Member;

// How many tokens' worth of the layer's moments are mixed into an expert's own.
constexpr double kPriorWeight = 128;
// Share of the mean of the diagonal that is added to it (docs/quality.md).
constexpr double kDamping = 0.04;

double trace_of(const InputMoments& moments) {
  double trace = 0;
  for (int64_t k = 0; k < moments.columns; ++k) trace += static_cast<double>(moments.at(k, k));
  return trace;
}

// own := (own + kPriorWeight * mean of prior) / weight.
void draw_towards(const InputMoments& prior, InputMoments* own) {
  const double total = own->weight + kPriorWeight;
  const auto keep = static_cast<float>(1 / total);
  const auto take = static_cast<float>(kPriorWeight / prior.weight / total);
  for (size_t i = 0; i < own->panels.size(); ++i) {
    own->panels[i] = keep * own->panels[i] + take * prior.panels[i];
  }
}

}  // namespace

Result<void> WholeMoments::add(const LayerInputs& inputs, Member member, int64_t expert,
                               InputMoments* sums) {
  return inputs.for_each_chunk(member, expert, [&](const InputChunk& chunk) -> Result<void> {
    const auto rows = static_cast<int64_t>(chunk.weights.size());
    const int64_t columns = static_cast<int64_t>(chunk.rows.size()) / rows;
    if (sums->columns == 0) *sums = InputMoments(columns);
    device_.add_moments(chunk.rows, chunk.weights, sums);
    return {};
  });
}

// Gate and up are drawn towards what all tokens bring, down towards all experts' inputs.
Result<const InputMoments*> WholeMoments::prior(const LayerInputs& inputs, Member member) {
  const auto found = priors_.find(member);
  if (found != priors_.end()) return &found->second;
  InputMoments sums;
  if (member == Member::expert_gate) {
    NIBBLE_RETURN_IF_ERROR(add(inputs, Member::shared_gate, 0, &sums));
  } else {
    for (int64_t e = 0; e < inputs.num_experts(); ++e) {
      NIBBLE_RETURN_IF_ERROR(add(inputs, member, e, &sums));
    }
  }
  return &priors_.emplace(member, std::move(sums)).first->second;
}

Result<InputMoments> WholeMoments::summed(const LayerInputs& inputs, Member member,
                                          int64_t expert) {
  InputMoments sums;
  NIBBLE_RETURN_IF_ERROR(add(inputs, member, expert, &sums));
  if (member != Member::expert_gate && member != Member::expert_down) return sums;
  NIBBLE_ASSIGN_OR_RETURN(const InputMoments* all, prior(inputs, member));
  if (sums.columns == 0) sums = InputMoments(all->columns);
  if (all->weight > 0) draw_towards(*all, &sums);
  return sums;
}

Result<const device::FactoredMoments*> WholeMoments::of(const LayerInputs& inputs, Member member,
                                                        int64_t expert) {
  // Members that share a scale read the same input.
  const std::pair key{scale_leader(member), expert};
  if (held_ != key) {
    factored_ = device::FactoredMoments();
    NIBBLE_ASSIGN_OR_RETURN(const InputMoments moments, summed(inputs, key.first, expert));
    const double trace = trace_of(moments);
    is_usable_ = trace > 0 && std::isfinite(trace);
    if (is_usable_) factored_ = device_.factor_moments(moments, kDamping);
    held_ = key;
  }
  return is_usable_ ? &factored_ : nullptr;
}

}  // namespace nibble::quantize
