#include "model/dummy_source.h"

#include "base/hash.h"
#include "base/rng.h"
#include "formats/bf16.h"

#include <cmath>
#include <cstring>

namespace nibble::model {
namespace {

using formats::LinearWeight;
using formats::WeightFormat;

// Root mean square of a uniformly random E2M1 code, times the mean block scale below.
constexpr float kCodeRms = 2.93f;
// Block scale bytes 0x34 .. 0x3B: E4M3 values 0.75 .. 1.375.
constexpr uint8_t kScaleByte = 0x34;

void fill_bytes(std::vector<std::byte>& out, size_t count, uint64_t seed, uint64_t keep,
                uint64_t add) {
  out.resize((count + 7) / 8 * 8);
  for (size_t i = 0; i < out.size() / 8; ++i) {
    const uint64_t bits = (random_bits(seed, i) & keep) + add;
    std::memcpy(out.data() + 8 * i, &bits, 8);
  }
}

constexpr uint64_t every_byte(uint8_t byte) {
  return 0x0101010101010101ULL * byte;
}

// Uniform in (-limit, limit), BF16.
void fill_bf16(std::vector<std::byte>& out, size_t count, uint64_t seed, float limit) {
  out.resize((count + 3) / 4 * 8);
  auto* values = reinterpret_cast<uint16_t*>(out.data());
  for (size_t i = 0; i < out.size() / 8; ++i) {
    const uint64_t bits = random_bits(seed, i);
    for (size_t j = 0; j < 4; ++j) {
      const auto integer = static_cast<int16_t>(bits >> (16 * j));
      values[4 * i + j] = formats::bf16_from_f32(static_cast<float>(integer) * (limit / 32768.0f));
    }
  }
}

WeightFormat format_named(const std::string& algorithm) {
  if (algorithm == "FP8") return WeightFormat::fp8;
  return algorithm.find("NVFP4") != std::string::npos ? WeightFormat::nvfp4 : WeightFormat::bf16;
}

}  // namespace

WeightFormat DummySource::format(Member member, int layer) const {
  if (!config_.quantization_config) return WeightFormat::bf16;
  switch (member) {  // never quantized, whatever the lists say (design: recipes)
    case Member::router:
    case Member::shared_expert_gate:
    case Member::in_proj_a:
    case Member::in_proj_b:
      return WeightFormat::bf16;
    default:
      return format_named(config_.quantization_config->algorithm_for(prefix_.stem(member, layer)));
  }
}

WeightFormat DummySource::expert_format(int layer, bool shared) const {
  return format(shared ? Member::shared_gate : Member::expert_gate, layer);
}

LinearWeight DummySource::generate(const std::string& stem, WeightFormat format, Shape shape,
                                   Buffers& buffers) {
  const auto n = static_cast<size_t>(shape[0]);
  const auto k = static_cast<size_t>(shape[1]);
  const uint64_t seed = fnv1a(stem);
  const float unit = 1.0f / std::sqrt(static_cast<float>(k));
  LinearWeight out;
  out.format = format;
  out.out_features = shape[0];
  out.in_features = shape[1];
  switch (format) {
    case WeightFormat::nvfp4: {
      fill_bytes(buffers.weight, n * k / 2, seed, ~0ULL, 0);
      fill_bytes(buffers.scales, n * k / 16, seed + 1, every_byte(0x07), every_byte(kScaleByte));
      out.weight = {buffers.weight.data(), DType::u8, Shape{shape[0], shape[1] / 2}};
      out.weight_scale = {buffers.scales.data(), DType::f8_e4m3, Shape{shape[0], shape[1] / 16}};
      out.weight_scale_2 = unit / kCodeRms;
      break;
    }
    case WeightFormat::fp8: {
      // Sign, and exponents and mantissas below 0x40: magnitudes up to 1.875, no NaN.
      fill_bytes(buffers.weight, n * k, seed, every_byte(0xBF), 0);
      out.weight = {buffers.weight.data(), DType::f8_e4m3, shape};
      out.weight_scale_2 = 2.0f * unit;
      break;
    }
    case WeightFormat::bf16:
    case WeightFormat::f32: {
      out.format = WeightFormat::bf16;
      fill_bf16(buffers.weight, n * k, seed, std::sqrt(3.0f) * unit);
      out.weight = {buffers.weight.data(), DType::bf16, shape};
      break;
    }
  }
  return out;
}

Result<LinearWeight> DummySource::linear(Member member, int layer) {
  return generate(prefix_.stem(member, layer), format(member, layer),
                  expected_shape(member, config_), buffers_[0]);
}

Result<ExpertWeights> DummySource::expert(int layer, int64_t index) {
  const bool shared = index == kSharedExpert;
  const WeightFormat format = expert_format(layer, shared);
  const auto make = [&](Member routed, Member of_shared, size_t buffer) {
    const Member member = shared ? of_shared : routed;
    return generate(prefix_.stem(member, layer, shared ? 0 : index), format,
                    expected_shape(member, config_), buffers_[buffer]);
  };
  return ExpertWeights{make(Member::expert_gate, Member::shared_gate, 0),
                       make(Member::expert_up, Member::shared_up, 1),
                       make(Member::expert_down, Member::shared_down, 2)};
}

Result<std::vector<float>> DummySource::vector(Member member, int layer) {
  const uint64_t seed = fnv1a(prefix_.name(member, layer));
  std::vector<float> out(static_cast<size_t>(expected_shape(member, config_).elements()));
  for (size_t i = 0; i < out.size(); ++i) {
    const auto unit = static_cast<float>(random_unit(seed, i));
    switch (member) {
      case Member::a_log:  // decay rates between 1 and 16
        out[i] = std::log(1.0f + 15.0f * unit);
        break;
      case Member::delta_norm:  // plain weight near one
        out[i] = 0.75f + 0.5f * unit;
        break;
      case Member::conv:
        out[i] = unit - 0.5f;
        break;
      case Member::dt_bias:
        out[i] = -4.0f * unit;
        break;
      default:  // (1 + w) norms
        out[i] = 0.25f * (unit - 0.5f);
    }
  }
  return out;
}

Result<ConstTensorView> DummySource::embedding() {
  const Shape shape = expected_shape(Member::embed_tokens, config_);
  fill_bf16(buffers_[0].weight, static_cast<size_t>(shape.elements()),
            fnv1a(prefix_.name(Member::embed_tokens, -1)), 1.0f);
  return ConstTensorView(buffers_[0].weight.data(), DType::bf16, shape);
}

Result<std::pair<float, float>> DummySource::kv_scales(int) {
  return std::pair(0.03f, 0.03f);
}

}  // namespace nibble::model
