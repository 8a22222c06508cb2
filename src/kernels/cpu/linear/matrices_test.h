// Random and extreme matrices in every weight format, and their packed form, for tests of the
// matrix products.
#pragma once

#include "base/rng.h"
#include "formats/bf16.h"
#include "formats/linear_weight.h"
#include "kernels/cpu/linear/packed_weights.h"
#include "tensor/tensor.h"

#include <cmath>
#include <cstdint>
#include <vector>

namespace nibble::cpu {

/// What the numbers of a test matrix look like.
enum class Values { normal, zeros, denormal, huge };

/// A number of the kind `values`, rounded to BF16.
inline float test_number(Values values, Rng& rng) {
  const double signed_unit = 2 * rng.unit() - 1;
  switch (values) {
    case Values::zeros:
      return 0.0f;
    case Values::denormal:
      return formats::round_to_bf16(static_cast<float>(signed_unit * 0x1p-127));
    case Values::huge:
      return formats::round_to_bf16(static_cast<float>(signed_unit * 0x1p60));
    case Values::normal:
      break;
  }
  return formats::round_to_bf16(static_cast<float>(signed_unit * std::exp2(4 * rng.unit() - 2)));
}

inline std::vector<float> test_rows(int64_t rows, int64_t k, Values values, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> x(static_cast<size_t>(rows * k));
  for (float& value : x) value = test_number(values, rng);
  return x;
}

inline std::vector<uint16_t> to_bf16(const std::vector<float>& x) {
  std::vector<uint16_t> out;
  out.reserve(x.size());
  for (const float value : x) out.push_back(formats::bf16_from_f32(value));
  return out;
}

/// A matrix and the bytes it views. Codes are uniform over all code points but NaN; scale bytes
/// have random sign bits, which readers ignore.
class TestMatrix {
 public:
  TestMatrix(PanelFormat format, int64_t n, int64_t k, Values values, uint64_t seed) {
    Rng rng(seed);
    view_.out_features = n;
    view_.in_features = k;
    if (format == PanelFormat::bf16) {
      fill_bf16(n, k, values, rng);
    } else if (format == PanelFormat::fp8) {
      fill_fp8(n, k, values, rng);
    } else {
      fill_nvfp4(n, k, values, rng);
    }
    source_ = {.format = format,
               .n = n,
               .k = k,
               .weight = reinterpret_cast<const unsigned char*>(weight_.view().data()),
               .scales = reinterpret_cast<const unsigned char*>(scales_.view().data())};
  }
  TestMatrix(const TestMatrix&) = delete;
  TestMatrix& operator=(const TestMatrix&) = delete;

  const formats::LinearWeight& view() const { return view_; }
  const LinearSource& source() const { return source_; }
  float tensor_scale() const { return view_.weight_scale_2; }
  void set_tensor_scale(float scale) { view_.weight_scale_2 = scale; }
  uint8_t* bytes() { return reinterpret_cast<uint8_t*>(weight_.view().data()); }

  uint8_t* scale_bytes() { return reinterpret_cast<uint8_t*>(scales_.view().data()); }

  AlignedBytes pack() const {
    AlignedBytes packed(packed_linear_bytes(source_.format, source_.n, source_.k));
    pack_linear_panels(source_, reinterpret_cast<unsigned char*>(packed.data()), 0,
                       num_panels(source_.n));
    return packed;
  }

 private:
  void fill_bf16(int64_t n, int64_t k, Values values, Rng& rng) {
    view_.format = formats::WeightFormat::bf16;
    weight_ = Tensor(DType::bf16, {n, k});
    auto* out = weight_.view().as<uint16_t>();
    for (int64_t i = 0; i < n * k; ++i) out[i] = formats::bf16_from_f32(test_number(values, rng));
    view_.weight = weight_.view();
  }

  void fill_fp8(int64_t n, int64_t k, Values values, Rng& rng) {
    view_.format = formats::WeightFormat::fp8;
    view_.weight_scale_2 = 0.0137f;
    weight_ = Tensor(DType::f8_e4m3, {n, k});
    auto* out = weight_.view().as<uint8_t>();
    for (int64_t i = 0; i < n * k; ++i) out[i] = code(values, rng, 8, 0x7E);
    view_.weight = weight_.view();
  }

  void fill_nvfp4(int64_t n, int64_t k, Values values, Rng& rng) {
    view_.format = formats::WeightFormat::nvfp4;
    view_.weight_scale_2 = 0.00173f;
    weight_ = Tensor(DType::u8, {n, k / 2});
    scales_ = Tensor(DType::f8_e4m3, {n, k / 16});
    auto* out = weight_.view().as<uint8_t>();
    for (int64_t i = 0; i < n * k / 2; ++i) {
      out[i] = values == Values::zeros ? uint8_t{0} : static_cast<uint8_t>(rng.bits());
    }
    auto* scales = scales_.view().as<uint8_t>();
    for (int64_t i = 0; i < n * k / 16; ++i) scales[i] = code(values, rng, 8, 0x7E);
    view_.weight = weight_.view();
    view_.weight_scale = scales_.view();
  }

  // A random E4M3 byte: subnormals only, the largest only, or any but NaN; sign random.
  static uint8_t code(Values values, Rng& rng, uint64_t subnormals, uint64_t largest) {
    const auto sign = static_cast<uint8_t>(rng.below(2) << 7);
    switch (values) {
      case Values::zeros:
        return sign;
      case Values::denormal:
        return static_cast<uint8_t>(rng.below(subnormals) | sign);
      case Values::huge:
        return static_cast<uint8_t>(largest | sign);
      case Values::normal:
        break;
    }
    return static_cast<uint8_t>(rng.below(largest + 1) | sign);
  }

  formats::LinearWeight view_;
  LinearSource source_{};
  Tensor weight_, scales_;
};

}  // namespace nibble::cpu
