#include "quantize/moments.h"

#include "base/check.h"

#include <fmt/format.h>

#include <cstring>

namespace nibble::quantize {
namespace {

using model::Member;

constexpr int kBlock = 16;
constexpr int kBlockSize = kBlock * kBlock;
// How many tokens' worth of the layer's moments are mixed into an expert's own.
constexpr double kPriorWeight = 128;
constexpr double kDamping = 0.01;

// (own + kPriorWeight * mean of prior) / weight, or the mean of one alone.
std::vector<float> blended(const BlockMoments& own, const BlockMoments* prior) {
  const double prior_weight = prior == nullptr || prior->weight() == 0 ? 0 : kPriorWeight;
  const double total = own.weight() + prior_weight;
  if (total == 0) return {};
  std::vector<float> out(own.sums().size());
  for (size_t i = 0; i < out.size(); ++i) {
    double sum = own.sums()[i];
    if (prior_weight > 0)
      sum += prior_weight / prior->weight() * static_cast<double>(prior->sums()[i]);
    out[i] = static_cast<float>(sum / total);
  }
  return out;
}

void damp(std::vector<float>& moments) {
  for (size_t block = 0; block < moments.size(); block += kBlockSize) {
    double trace = 0;
    for (size_t i = 0; i < kBlock; ++i)
      trace += static_cast<double>(moments[block + i * (kBlock + 1)]);
    const auto extra = static_cast<float>(kDamping * trace / kBlock);
    for (size_t i = 0; i < kBlock; ++i) moments[block + i * (kBlock + 1)] += extra;
  }
}

// Every sum of a layer under its name in the file.
template <typename Layer, typename Body>
void for_each_moment(Layer& layer, const Body& body) {
  body("mixer_in", layer.mixer_in);
  body("mixer_out", layer.mixer_out);
  body("mlp_in", layer.mlp_in);
  body("shared_down", layer.shared_down);
  body("experts_down", layer.experts_down);
  for (size_t e = 0; e < layer.expert_in.size(); ++e) {
    body(fmt::format("expert_in.{}", e), layer.expert_in[e]);
    body(fmt::format("expert_down.{}", e), layer.expert_down[e]);
  }
}

}  // namespace

void BlockMoments::add(std::span<const float> x, double g) {
  NIBBLE_CHECK(static_cast<int64_t>(x.size()) == columns_, "columns of moments", x.size(),
               columns_);
  weight_ += g;
  const auto factor = static_cast<float>(g);
  for (size_t block = 0; block < x.size() / kBlock; ++block) {
    const float* values = x.data() + block * kBlock;
    float* sums = sums_.data() + block * kBlockSize;
    for (size_t i = 0; i < kBlock; ++i) {
      const float scaled = factor * values[i];
      for (size_t j = 0; j < kBlock; ++j) sums[i * kBlock + j] += scaled * values[j];
    }
  }
}

std::vector<float> LayerMoments::mean(Member member, int64_t expert) const {
  std::vector<float> out;
  switch (member) {
    case Member::expert_gate:
    case Member::expert_up:
      out = blended(expert_in[static_cast<size_t>(expert)], &mlp_in);
      break;
    case Member::expert_down:
      out = blended(expert_down[static_cast<size_t>(expert)], &experts_down);
      break;
    case Member::shared_gate:
    case Member::shared_up:
      out = blended(mlp_in, nullptr);
      break;
    case Member::shared_down:
      out = blended(shared_down, nullptr);
      break;
    case Member::o_proj:
    case Member::out_proj:
      out = blended(mixer_out, nullptr);
      break;
    default:
      out = blended(mixer_in, nullptr);
  }
  damp(out);
  return out;
}

std::vector<formats::TensorSpec> LayerMoments::specs(const std::string& prefix) const {
  std::vector<formats::TensorSpec> out;
  for_each_moment(*this, [&](const std::string& name, const BlockMoments& moments) {
    if (moments.columns() == 0) return;
    out.push_back({prefix + name, DType::f32, Shape{moments.columns() / kBlock, kBlock, kBlock}});
    out.push_back({prefix + name + ".weight", DType::f64, Shape{}});
  });
  return out;
}

Result<void> LayerMoments::append(formats::SafetensorsWriter& writer,
                                  const std::string& prefix) const {
  Result<void> result;
  for_each_moment(*this, [&](const std::string& name, const BlockMoments& moments) {
    if (moments.columns() == 0 || !result.ok()) return;
    result = writer.append(prefix + name, std::as_bytes(std::span(moments.sums())));
    const double weight = moments.weight();
    if (!result.ok()) return;
    result = writer.append(prefix + name + ".weight", std::as_bytes(std::span(&weight, 1)));
  });
  return result;
}

Result<LayerMoments> LayerMoments::read(const formats::SafetensorsReader& file,
                                        const std::string& prefix) {
  LayerMoments out;
  while (file.find(fmt::format("{}expert_in.{}", prefix, out.expert_in.size())) != nullptr) {
    out.expert_in.emplace_back();
    out.expert_down.emplace_back();
  }
  std::string missing;
  for_each_moment(out, [&](const std::string& name, BlockMoments& moments) {
    const formats::TensorInfo* sums = file.find(prefix + name);
    const formats::TensorInfo* weight = file.find(prefix + name + ".weight");
    if (sums == nullptr) return;
    if (weight == nullptr || weight->dtype != DType::f64 || sums->dtype != DType::f32 ||
        sums->shape.elements() % kBlockSize != 0) {
      missing = prefix + name;
      return;
    }
    moments = BlockMoments(sums->shape.elements() / kBlock);
    const ConstTensorView view = file.view(*sums);
    std::memcpy(moments.sums_.data(), view.data(), view.bytes());
    std::memcpy(&moments.weight_, file.view(*weight).data(), sizeof moments.weight_);
  });
  if (missing.empty()) return out;
  return Error{ErrorCode::corrupt, file.path() + ": " + missing + " is incomplete"};
}

}  // namespace nibble::quantize
