// Deterministic random numbers: counter-based, so element i of a stream needs no state and no
// order.
//
// splitmix64 finalizer (Steele, Lea, Flood 2014). Same bits on every machine and thread count.
#pragma once

#include <cstdint>

namespace nibble {

/// 64 random bits for (seed, counter).
constexpr uint64_t random_bits(uint64_t seed, uint64_t counter) {
  uint64_t z = seed + (counter + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

/// Uniform in [0, 1), 53 bits.
constexpr double random_unit(uint64_t seed, uint64_t counter) {
  return static_cast<double>(random_bits(seed, counter) >> 11) * 0x1.0p-53;
}

/// A sequence of draws from one seed.
class Rng {
 public:
  explicit Rng(uint64_t seed) : seed_(seed) {}
  uint64_t bits() { return random_bits(seed_, counter_++); }
  double unit() { return random_unit(seed_, counter_++); }
  /// Uniform in [0, n); n > 0.
  uint64_t below(uint64_t n) { return bits() % n; }

 private:
  uint64_t seed_;
  uint64_t counter_ = 0;
};

}  // namespace nibble
