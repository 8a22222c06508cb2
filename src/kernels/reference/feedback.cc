#include "kernels/reference/feedback.h"

#include <algorithm>
#include <cmath>

namespace nibble::reference {
namespace {

constexpr int kBlock = 16;
constexpr double kUlp = 0x1p-24;
constexpr double kMagnitudes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
constexpr double kMiddles[] = {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5};

}  // namespace

BoundedValue tile_product(const float* a, const float* b, int64_t count, int i, int j,
                          float start) {
  BoundedValue out{start, 0};
  double magnitude = std::fabs(static_cast<double>(start));
  for (int64_t k = 0; k < count; ++k) {
    const double product =
        static_cast<double>(a[k * kBlock + i]) * static_cast<double>(b[k * kBlock + j]);
    out.value += product;
    magnitude += std::fabs(product);
  }
  out.f32_bound = static_cast<double>(count + 1) * kUlp * magnitude;
  return out;
}

FeedbackPath feedback_path(const float* centers, const float* triangle, float unit) {
  FeedbackPath out;
  double errors[kBlock], slack[kBlock];  // center - value, and how far f32 may be from it
  for (int i = kBlock - 1; i >= 0; --i) {
    const float* row = triangle + i * kBlock;
    double carried = 0, carried_slack = 0;
    for (int j = i + 1; j < kBlock; ++j) {
      const double weight = std::fabs(static_cast<double>(row[j]));
      carried += static_cast<double>(row[j]) * errors[j];
      carried_slack +=
          weight * slack[j] + (kBlock + 1) * kUlp * weight * (std::fabs(errors[j]) + slack[j]);
    }
    const double pivot = row[i];
    const double center = centers[i];
    const double wanted = center + carried / pivot;
    // The reciprocal, its product, the sum.
    const double wanted_slack = carried_slack / pivot +
                                4 * kUlp * (std::fabs(carried) + carried_slack) / pivot +
                                2 * kUlp * std::fabs(wanted);
    const double quotient = std::fabs(wanted) / static_cast<double>(unit);
    const double quotient_slack = wanted_slack / static_cast<double>(unit) + 4 * kUlp * quotient;
    int code = 0;
    for (const double middle : kMiddles) {
      if (std::fabs(quotient - middle) <= quotient_slack) out.is_clear = false;
      if (quotient > middle) ++code;
    }
    const double value = std::copysign(kMagnitudes[code] * static_cast<double>(unit), wanted);
    out.values[i] = value;
    errors[i] = center - value;
    slack[i] = kUlp * (2 * std::fabs(value) + std::fabs(errors[i]));
    const double left = (wanted - value) * pivot;
    const double left_slack =
        (wanted_slack + 2 * kUlp * (std::fabs(value) + std::fabs(wanted - value))) * pivot +
        2 * kUlp * std::fabs(left);
    out.loss.value += left * left;
    out.loss.f32_bound +=
        (2 * std::fabs(left) + left_slack) * left_slack +
        (kBlock + 2) * kUlp * (std::fabs(left) + left_slack) * (std::fabs(left) + left_slack);
  }
  return out;
}

}  // namespace nibble::reference
