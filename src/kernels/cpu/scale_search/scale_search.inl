// The search in plain loops of 16 lanes, one lane per candidate scale, for the compiler to turn
// into the level's vectors.

constexpr int kLanes = 16;
constexpr int kBlock = 16;
constexpr int kCandidates = 0x7E;

struct BlockInput {
  float magnitudes[kBlock];
  float largest;
  // Upper triangle of the signed moments, doubled off the diagonal.
  float moments[kBlock][kBlock];
  bool weighted;
};

// Nearest E2M1 magnitude, ties to even codes: adding 1.5 * 2^(22+n) leaves no bits below the grid's
// step there.
inline float rounded_magnitude(float magnitude) {
  const float x = magnitude < 6.0f ? magnitude : 6.0f;
  const float step = x < 2.0f ? 0x1.8p22f : (x < 4.0f ? 0x1.8p23f : 0x1.8p24f);
  return (x + step) - step;
}

inline void prepare(const float* weights, const float* moments, BlockInput& block) {
  block.largest = 0;
  for (int i = 0; i < kBlock; ++i) {
    block.magnitudes[i] = __builtin_fabsf(weights[i]);
    block.largest = block.largest < block.magnitudes[i] ? block.magnitudes[i] : block.largest;
  }
  float trace = 0;
  for (int i = 0; moments != nullptr && i < kBlock; ++i) trace += moments[i * (kBlock + 1)];
  block.weighted = trace > 0 && trace <= 0x1.fffffep127f;
  if (!block.weighted) return;
  for (int i = 0; i < kBlock; ++i) {
    for (int j = i; j < kBlock; ++j) {
      const float moment = (i == j ? 1.0f : 2.0f) * moments[i * kBlock + j];
      const bool differ = __builtin_signbit(weights[i]) != __builtin_signbit(weights[j]);
      block.moments[i][j] = differ ? -moment : moment;
    }
  }
}

inline void candidate_losses(const BlockInput& block, const float* units, float* losses) {
  float errors[kBlock][kLanes];
  for (int i = 0; i < kBlock; ++i) {
    for (int c = 0; c < kLanes; ++c) {
      const float quotient = block.magnitudes[i] / units[c];
      errors[i][c] = block.magnitudes[i] - units[c] * rounded_magnitude(quotient);
    }
  }
  for (int c = 0; c < kLanes; ++c) losses[c] = 0;
  if (!block.weighted) {
    for (int i = 0; i < kBlock; ++i) {
      for (int c = 0; c < kLanes; ++c) losses[c] += errors[i][c] * errors[i][c];
    }
    return;
  }
  for (int i = 0; i < kBlock; ++i) {
    float sums[kLanes];
    for (int c = 0; c < kLanes; ++c) sums[c] = block.moments[i][i] * errors[i][c];
    for (int j = i + 1; j < kBlock; ++j) {
      for (int c = 0; c < kLanes; ++c) sums[c] += block.moments[i][j] * errors[j][c];
    }
    for (int c = 0; c < kLanes; ++c) losses[c] += sums[c] * errors[i][c];
  }
}

inline uint8_t best_scale(const BlockInput& block, const float* units) {
  int best = kCandidates - 1;
  float best_loss = __builtin_inff();
  for (int first = 0; first < kCandidates; first += kLanes) {
    const float* group = units + first;
    // Six units below a quarter of the largest weight: that weight alone loses more than the whole
    // block does with its fitting scale.
    const bool too_small = !block.weighted && 24.0f * group[kLanes - 1] < block.largest;
    if (too_small) continue;
    float losses[kLanes];
    candidate_losses(block, group, losses);
    for (int c = 0; c < kLanes; ++c) {
      if (losses[c] < best_loss) {
        best_loss = losses[c];
        best = first + c;
      }
    }
    // From here on all codes are zero and nothing changes any more.
    if (group[kLanes - 1] > 4.0f * block.largest) break;
  }
  return static_cast<uint8_t>(best + 1);
}

void best_scales(const ScaleSearchArgs& args) noexcept {
  BlockInput block;
  for (int64_t b = 0; b < args.blocks; ++b) {
    const float* moments = args.moments == nullptr ? nullptr : args.moments + b * kBlock * kBlock;
    prepare(args.weights + b * kBlock, moments, block);
    args.scales[b] = block.largest == 0.0f ? uint8_t{0x38} : best_scale(block, args.units);
  }
}
