#include "formats/nvfp4_search.h"

#include "formats/e2m1.h"
#include "formats/e4m3.h"
#include "formats/nvfp4_encode.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace nibble::formats {
namespace {

constexpr int kBlock = 16;
constexpr uint8_t kLargestByte = 0x7E;
constexpr uint8_t kOne = 0x38;  // scale of an all-zero block
constexpr float kNorm = 448;
constexpr float kFourOverSixNorm = 256;

constexpr std::array<std::pair<ScaleMethod, const char*>, 5> kNames = {
    {{ScaleMethod::max, "max"},
     {ScaleMethod::mse, "mse"},
     {ScaleMethod::four_over_six, "four-over-six"},
     {ScaleMethod::hessian, "hessian"},
     {ScaleMethod::gptq, "gptq"}}};

// Rounds a magnitude to the E2M1 grid, ties to even codes, saturating: adding 1.5 * 2^(22+n) leaves
// no bits below the grid's step there.
float rounded_to_e2m1(float magnitude) {
  const float x = std::min(magnitude, 6.0f);
  const float step = x < 2.0f ? 0x1.8p22f : (x < 4.0f ? 0x1.8p23f : 0x1.8p24f);
  return (x + step) - step;
}

// One block of 16 weights and how its error is weighed.
class Block {
 public:
  Block(const float* weights, float tensor_scale, const float* moments)
      : weights_(weights), tensor_scale_(tensor_scale), moments_(moments) {
    for (int i = 0; i < kBlock; ++i) {
      magnitudes_[i] = std::fabs(weights[i]);
      largest_ = std::max(largest_, magnitudes_[i]);
    }
  }

  bool all_zero() const { return largest_ == 0.0f; }
  float largest() const { return largest_; }

  float loss(uint8_t scale) const {
    const float unit = e4m3_to_f32(scale) * tensor_scale_;
    float errors[kBlock];
    for (int i = 0; i < kBlock; ++i) {
      errors[i] = magnitudes_[i] - unit * rounded_to_e2m1(magnitudes_[i] / unit);
    }
    return moments_ == nullptr ? squared(errors) : weighted(errors);
  }

  // Every byte, the lowest of the best. Above 4 * largest all codes are zero and the loss is that
  // of the first such byte.
  uint8_t best_of_all() const {
    uint8_t best = kLargestByte;
    float best_loss = std::numeric_limits<float>::infinity();
    for (uint8_t scale = 1; scale <= kLargestByte; ++scale) {
      const float found = loss(scale);
      if (found < best_loss) {
        best_loss = found;
        best = scale;
      }
      if (e4m3_to_f32(scale) * tensor_scale_ > 4.0f * largest_) break;
    }
    return best;
  }

 private:
  static float squared(const float* errors) {
    float loss = 0;
    for (int i = 0; i < kBlock; ++i) loss += errors[i] * errors[i];
    return loss;
  }

  // errors hold |w| - |w'|; the sign of each weight puts the true error back. Every pair once.
  float weighted(float* errors) const {
    for (int i = 0; i < kBlock; ++i) errors[i] = std::copysign(1.0f, weights_[i]) * errors[i];
    float loss = 0;
    for (int i = 0; i < kBlock; ++i) {
      float sum = moments_[i * kBlock + i] * errors[i];
      for (int j = i + 1; j < kBlock; ++j) sum += 2.0f * moments_[i * kBlock + j] * errors[j];
      loss += sum * errors[i];
    }
    return loss;
  }

  const float* weights_;
  float magnitudes_[kBlock];
  float largest_ = 0;
  float tensor_scale_;
  const float* moments_;
};

// The block's [16][16] moments if they can tell good scales from bad ones.
const float* usable_moments(const ScaleSearch& search, size_t block) {
  if (search.method != ScaleMethod::hessian || search.moments == nullptr) return nullptr;
  const float* moments = search.moments + block * kBlock * kBlock;
  float trace = 0;
  for (int i = 0; i < kBlock; ++i) trace += moments[i * (kBlock + 1)];
  return trace > 0 && std::isfinite(trace) ? moments : nullptr;
}

// The better of the largest magnitude on 6 and on 4; on 6 when they tie.
uint8_t four_or_six(const Block& block, const ScaleSearch& search) {
  const uint8_t six =
      static_block_scale(block.largest(), search.amax, kFourOverSixNorm, search.rules);
  const uint8_t four =
      static_block_scale(block.largest() * 1.5f, search.amax, kFourOverSixNorm, search.rules);
  return block.loss(four) < block.loss(six) ? four : six;
}

}  // namespace

const char* scale_method_name(ScaleMethod method) {
  for (const auto& [known, name] : kNames) {
    if (known == method) return name;
  }
  return "?";
}

std::optional<ScaleMethod> parse_scale_method(std::string_view name) {
  for (const auto& [method, known] : kNames) {
    if (known == name) return method;
  }
  return std::nullopt;
}

float tensor_scale_for(ScaleMethod method, float amax, ScalarDivision division) {
  const float norm = method == ScaleMethod::four_over_six ? kFourOverSixNorm : kNorm;
  return divide_scalar(amax, 6.0f * norm, division);
}

void search_nvfp4_scales(std::span<const float> row, const ScaleSearch& search,
                         uint8_t* block_scales) {
  const float tensor_scale = tensor_scale_for(search.method, search.amax, search.rules.division);
  for (size_t b = 0; b < row.size() / kBlock; ++b) {
    const Block block(row.data() + b * kBlock, tensor_scale, usable_moments(search, b));
    if (block.all_zero()) {
      block_scales[b] = kOne;
    } else if (search.method == ScaleMethod::four_over_six) {
      block_scales[b] = four_or_six(block, search);
    } else {
      block_scales[b] = block.best_of_all();
    }
  }
}

std::array<float, 128> nvfp4_scale_units(float tensor_scale) {
  std::array<float, 128> units{};
  for (size_t i = 0; i < units.size(); ++i) {
    const auto byte = static_cast<uint8_t>(std::min<size_t>(i + 1, kLargestByte));
    units[i] = e4m3_to_f32(byte) * tensor_scale;
  }
  return units;
}

double nvfp4_block_loss(std::span<const float> block, float tensor_scale, uint8_t scale,
                        const float* moments) {
  double errors[kBlock];
  const float unit = e4m3_to_f32(scale & 0x7F) * tensor_scale;
  for (size_t i = 0; i < kBlock; ++i) {
    const float stored = unit * e2m1_to_f32(e2m1_from_f32(block[i] / unit));
    errors[i] = static_cast<double>(block[i]) - static_cast<double>(stored);
  }
  double loss = 0;
  for (int i = 0; i < kBlock; ++i) {
    if (moments == nullptr) loss += errors[i] * errors[i];
    for (int j = 0; moments != nullptr && j < kBlock; ++j) {
      loss += errors[i] * static_cast<double>(moments[i * kBlock + j]) * errors[j];
    }
  }
  return loss;
}

}  // namespace nibble::formats
