// Both kernels on the level's vectors, after common/vec.inl. Lanes are outputs or candidates.

constexpr int kBlock = 16;
constexpr int kCandidates = 32;
constexpr int kVecs = kBlock / kLanes;  // of a row of a tile
constexpr int kCandidateVecs = kCandidates / kLanes;
// Rows of sums held in registers at a time.
constexpr int kHeld = kVecs == 1 ? 16 : 4;

inline void add_held_rows(const TileProductArgs& args, int first) {
  Vec held[kHeld][kVecs];
#pragma GCC unroll 16
  for (int i = 0; i < kHeld; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      held[i][v] = v_load(args.sums + (first + i) * kBlock + v * kLanes);
    }
  }
  for (int64_t k = 0; k < args.count; ++k) {
    const float* a = args.a + k * kBlock + first;
    Vec b[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) b[v] = v_load(args.b + k * kBlock + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kHeld; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) held[i][v] += v_set(a[i]) * b[v];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kHeld; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      v_store(args.sums + (first + i) * kBlock + v * kLanes, held[i][v]);
    }
  }
}

void add_tile_products(const TileProductArgs& args) noexcept {
  for (int first = 0; first < kBlock; first += kHeld) add_held_rows(args, first);
}

// Nearest E2M1 value, ties to even codes: adding 1.5 * 2^(22+n) leaves no bits below the grid's
// step there.
inline Vec rounded_to_code(Vec x) {
  const VecU sign = (VecU)x & 0x80000000u;
  const Vec magnitude = v_min((Vec)((VecU)x & 0x7FFFFFFFu), v_set(6.0f));
  const Vec coarse = magnitude < v_set(4.0f) ? v_set(0x1.8p23f) : v_set(0x1.8p24f);
  const Vec step = magnitude < v_set(2.0f) ? v_set(0x1.8p22f) : coarse;
  return (Vec)((VecU)((magnitude + step) - step) | sign);
}

struct Candidates {
  Vec values[kBlock][kCandidateVecs];
  Vec losses[kCandidateVecs];
};

inline void round_under_all(const RoundBlockArgs& args, Candidates& out) {
  Vec errors[kBlock][kCandidateVecs];
  float inverses[kBlock];
  for (int i = 0; i < kBlock; ++i) inverses[i] = 1.0f / args.triangle[i * kBlock + i];
  for (int v = 0; v < kCandidateVecs; ++v) out.losses[v] = v_set(0.0f);
  for (int i = kBlock - 1; i >= 0; --i) {
    const float* row = args.triangle + i * kBlock;
    const Vec center = v_set(args.centers[i]);
    Vec carried[kCandidateVecs];
#pragma GCC unroll 8
    for (int v = 0; v < kCandidateVecs; ++v) carried[v] = v_set(0.0f);
    for (int j = kBlock - 1; j > i; --j) {
      const Vec factor = v_set(row[j]);
#pragma GCC unroll 8
      for (int v = 0; v < kCandidateVecs; ++v) carried[v] += factor * errors[j][v];
    }
#pragma GCC unroll 8
    for (int v = 0; v < kCandidateVecs; ++v) {
      const Vec wanted = center + carried[v] * v_set(inverses[i]);
      const Vec code = rounded_to_code(wanted * v_load(args.inverse_units + v * kLanes));
      const Vec value = v_load(args.units + v * kLanes) * code;
      out.values[i][v] = value;
      errors[i][v] = center - value;
      const Vec left = (wanted - value) * v_set(row[i]);
      out.losses[v] += left * left;
    }
  }
}

void round_block(const RoundBlockArgs& args) noexcept {
  Candidates found;
  round_under_all(args, found);
  float losses[kCandidates];
  for (int v = 0; v < kCandidateVecs; ++v) v_store(losses + v * kLanes, found.losses[v]);
  int best = 0;
  for (int c = 1; c < kCandidates; ++c) {
    if (losses[c] < losses[best]) best = c;
  }
  *args.loss = losses[best];
  *args.chosen = best;
  for (int i = 0; i < kBlock; ++i) {
    float values[kCandidates];
    for (int v = 0; v < kCandidateVecs; ++v) v_store(values + v * kLanes, found.values[i][v]);
    args.values[i] = values[best];
  }
}
