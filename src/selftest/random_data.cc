#include "selftest/random_data.h"

#include "formats/bf16.h"
#include "formats/e4m3.h"

#include <algorithm>
#include <cmath>

namespace nibble::selftest {
namespace {

using formats::LinearWeight;
using formats::WeightFormat;

/// Root mean square of a uniformly random E2M1 code times a block scale of 0.75 .. 1.375, and of a
/// uniformly random E4M3 code below 2.
constexpr float kNvfp4Rms = 2.93f, kFp8Rms = 0.5f;

void fill(std::vector<uint8_t>& bytes, Rng& rng) {
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t bits = rng.bits();
    for (size_t j = i; j < std::min(bytes.size(), i + 8); ++j) {
      bytes[j] = static_cast<uint8_t>(bits >> (8 * (j - i)));
    }
  }
}

void fill_bf16(OwnedWeight& out, float scale, Rng& rng) {
  const LinearWeight& v = out.view;
  const std::vector<float> values = random_values(v.out_features * v.in_features, scale, rng);
  out.codes.resize(2 * values.size());
  auto* codes = reinterpret_cast<uint16_t*>(out.codes.data());
  for (size_t i = 0; i < values.size(); ++i) codes[i] = formats::bf16_from_f32(values[i]);
}

void fill_fp8(OwnedWeight& out, Magnitude magnitude, Rng& rng) {
  out.codes.resize(static_cast<size_t>(out.view.out_features * out.view.in_features));
  fill(out.codes, rng);
  for (uint8_t& code : out.codes) {
    if (magnitude == Magnitude::unit) code &= 0xBF;  // below 2
    if ((code & 0x7F) == 0x7F) code = 0x7E;  // no NaN
  }
}

void fill_nvfp4(OwnedWeight& out, Magnitude magnitude, Rng& rng) {
  const auto count = static_cast<size_t>(out.view.out_features * out.view.in_features);
  out.codes.resize(count / 2);
  out.scales.resize(count / 16);
  fill(out.codes, rng);
  fill(out.scales, rng);
  for (uint8_t& scale : out.scales) {
    scale = magnitude == Magnitude::unit ? static_cast<uint8_t>(0x34 + (scale & 7))
                                         : static_cast<uint8_t>(scale % 0x7F);
  }
}

}  // namespace

OwnedWeight random_weight(WeightFormat format, int64_t n, int64_t k, Magnitude magnitude,
                          Rng& rng) {
  OwnedWeight out;
  LinearWeight& v = out.view;
  v.format = format;
  v.out_features = n;
  v.in_features = k;
  const float unit = 1.0f / std::sqrt(static_cast<float>(k));
  const auto scale = 0.01f + 0.01f * static_cast<float>(rng.unit());
  const auto bytes = [](std::vector<uint8_t>& of) {
    return reinterpret_cast<std::byte*>(of.data());
  };
  if (format == WeightFormat::bf16) {
    fill_bf16(out, magnitude == Magnitude::unit ? std::sqrt(3.0f) * unit : 1.0f, rng);
    v.weight = {bytes(out.codes), DType::bf16, Shape{n, k}};
  } else if (format == WeightFormat::fp8) {
    fill_fp8(out, magnitude, rng);
    v.weight = {bytes(out.codes), DType::f8_e4m3, Shape{n, k}};
    v.weight_scale_2 = magnitude == Magnitude::unit ? unit / kFp8Rms : scale;
  } else {
    fill_nvfp4(out, magnitude, rng);
    v.weight = {bytes(out.codes), DType::u8, Shape{n, k / 2}};
    v.weight_scale = {bytes(out.scales), DType::f8_e4m3, Shape{n, k / 16}};
    v.weight_scale_2 = magnitude == Magnitude::unit ? unit / kNvfp4Rms : scale;
  }
  return out;
}

std::vector<float> random_values(int64_t count, float scale, Rng& rng) {
  std::vector<float> out(static_cast<size_t>(count));
  for (float& value : out) {
    value = formats::round_to_bf16(scale * static_cast<float>(2.0 * rng.unit() - 1.0));
  }
  return out;
}

std::byte* Buffers::take(size_t bytes) {
  auto memory = device_.allocate(bytes, "selftest");
  NIBBLE_CHECK(memory.ok(), "memory", memory.ok() ? "" : memory.error().message);
  owned_.push_back(std::move(memory).value());
  return owned_.back()->data();
}

TensorView Buffers::tensor(DType dtype, Shape shape) {
  return {take(static_cast<size_t>(shape.elements()) * dtype_bytes(dtype)), dtype, shape};
}

TensorView Buffers::tensor(DType dtype, Shape shape, const std::vector<float>& values) {
  const TensorView out = tensor(dtype, shape);
  if (dtype == DType::f32) {
    device_.upload(out.data(), std::as_bytes(std::span(values)));
    return out;
  }
  std::vector<uint16_t> rounded;
  for (const float value : values) rounded.push_back(formats::bf16_from_f32(value));
  device_.upload(out.data(), std::as_bytes(std::span(rounded)));
  return out;
}

device::PackedLinear Buffers::pack(const OwnedWeight& weight, std::byte* at) {
  const LinearWeight& v = weight.view;
  if (at == nullptr) {
    at = take(device_.packed_linear_bytes(v.format, v.out_features, v.in_features));
  }
  return device_.pack_linear(v, at);
}

std::vector<float> Buffers::get(ConstTensorView view) {
  std::vector<std::byte> host(view.bytes());
  device_.download(host, view.data());
  device_.synchronize();
  std::vector<float> out(static_cast<size_t>(view.shape().elements()));
  for (size_t i = 0; i < out.size(); ++i) {
    if (view.dtype() == DType::bf16) {
      out[i] = formats::bf16_to_f32(reinterpret_cast<const uint16_t*>(host.data())[i]);
    } else if (view.dtype() == DType::f8_e4m3) {
      out[i] = formats::e4m3_to_f32(static_cast<uint8_t>(host[i]));
    } else if (view.dtype() == DType::i32) {
      out[i] = static_cast<float>(reinterpret_cast<const int32_t*>(host.data())[i]);
    } else {
      out[i] = reinterpret_cast<const float*>(host.data())[i];
    }
  }
  return out;
}

}  // namespace nibble::selftest
