#include "eval/kld/layer_errors.h"

#include "base/check.h"
#include "eval/kld/position_record.h"

#include <algorithm>
#include <cmath>
#include <span>

namespace nibble::eval {

void HiddenError::add(ConstTensorView base, ConstTensorView model) {
  NIBBLE_CHECK(base.shape() == model.shape(), "hidden states", base.rows(), model.rows());
  const auto width = static_cast<size_t>(base.row_elements());
  for (int64_t row = 0; row < base.rows(); ++row) {
    const float* a = base.as<float>() + row * base.row_elements();
    const float* b = model.as<float>() + row * base.row_elements();
    double aa = 0, bb = 0, ab = 0, difference = 0;
    for (size_t i = 0; i < width; ++i) {
      const double x = a[i], y = b[i];
      aa += x * x;
      bb += y * y;
      ab += x * y;
      difference += (x - y) * (x - y);
    }
    // Two zero rows agree; one zero row has no direction.
    const double norms = std::sqrt(aa) * std::sqrt(bb);
    cosine_.add(norms > 0 ? ab / norms : (aa == bb ? 1 : 0));
    squared_difference_ += difference;
    squared_base_ += aa;
  }
}

double HiddenError::relative_rms() const {
  return squared_base_ > 0 ? std::sqrt(squared_difference_ / squared_base_) : 0;
}

void RoutingAgreement::add(const RoutingRows& base, const RoutingRows& model) {
  NIBBLE_CHECK(
      base.logits.shape() == model.logits.shape() && base.experts.shape() == model.experts.shape(),
      "routing rows", base.logits.rows(), model.logits.rows());
  const auto experts = static_cast<size_t>(base.logits.row_elements());
  const auto chosen = static_cast<size_t>(base.experts.row_elements());
  for (int64_t row = 0; row < base.logits.rows(); ++row) {
    const auto r = static_cast<size_t>(row);
    const std::span<const int32_t> ours(base.experts.as<int32_t>() + r * chosen, chosen);
    const std::span<const int32_t> theirs(model.experts.as<int32_t>() + r * chosen, chosen);
    const auto common = std::count_if(ours.begin(), ours.end(), [&](int32_t expert) {
      return std::find(theirs.begin(), theirs.end(), expert) != theirs.end();
    });
    same_sets_ += static_cast<size_t>(common) == chosen;
    overlap_.add(static_cast<double>(common) / static_cast<double>(chosen));
    const std::span<const float> p(base.logits.as<float>() + r * experts, experts);
    const std::span<const float> q(model.logits.as<float>() + r * experts, experts);
    kld_.add(compare_position(normalized(p), normalized(q), 0).kld);
  }
}

}  // namespace nibble::eval
