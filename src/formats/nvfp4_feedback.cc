#include "formats/nvfp4_feedback.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nibble::formats {
namespace {

constexpr int kBlock = 16;
constexpr int kBytes = 0x7E;
// How far below the byte that puts the largest weight on 6 the window begins. Searches weighted
// with moments were seen to choose 13 bytes below to 16 above it (spec nvfp4.md 4.2).
constexpr int kBelow = 14;

// Rounds a magnitude to the E2M1 grid, ties to even codes, saturating.
float rounded_to_e2m1(float magnitude) {
  const float x = magnitude < 6.0f ? magnitude : 6.0f;
  const float step = x < 2.0f ? 0x1.8p22f : (x < 4.0f ? 0x1.8p23f : 0x1.8p24f);
  return (x + step) - step;
}

RoundedBlock rounded_under(const BlockTarget& target, int candidate) {
  RoundedBlock out;
  out.chosen = candidate;
  float errors[kBlock];
  for (int i = kBlock - 1; i >= 0; --i) {
    const float* row = target.triangle + i * kBlock;
    float carried = 0;
    for (int j = kBlock - 1; j > i; --j) carried += row[j] * errors[j];
    const float wanted = target.centers[i] + carried * (1.0f / row[i]);
    const float code = rounded_to_e2m1(std::fabs(wanted) * target.inverse_units[candidate]);
    out.values[i] = std::copysign(target.units[candidate] * code, wanted);
    errors[i] = target.centers[i] - out.values[i];
    const float left = (wanted - out.values[i]) * row[i];
    out.loss += left * left;
  }
  return out;
}

}  // namespace

void add_tile_products(const float* a, const float* b, int64_t count, float* sums) {
  for (int64_t k = 0; k < count; ++k) {
    for (int i = 0; i < kBlock; ++i) {
      for (int j = 0; j < kBlock; ++j) {
        sums[i * kBlock + j] += a[k * kBlock + i] * b[k * kBlock + j];
      }
    }
  }
}

RoundedBlock round_block_with_feedback(const BlockTarget& target) {
  RoundedBlock best = {};
  best.loss = std::numeric_limits<float>::infinity();
  for (int candidate = 0; candidate < kFeedbackCandidates; ++candidate) {
    const RoundedBlock found = rounded_under(target, candidate);
    if (found.loss < best.loss) best = found;
  }
  return best;
}

int first_feedback_candidate(float largest, const float* units) {
  const auto fitting = std::partition_point(units, units + kBytes,
                                            [&](float unit) { return 6.0f * unit < largest; });
  return std::clamp(static_cast<int>(fitting - units) - kBelow, 0, kBytes - kFeedbackCandidates);
}

}  // namespace nibble::formats
