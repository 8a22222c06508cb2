#include "server/id_source.h"

#include "base/rng.h"

#include <fmt/format.h>

#include <random>

namespace nibble::server {

IdSource::IdSource() {
  std::random_device device;
  seed_ = (static_cast<uint64_t>(device()) << 32) | device();
}

uint64_t IdSource::bits() {
  return random_bits(seed_, counter_.fetch_add(1, std::memory_order_relaxed));
}

std::string IdSource::hex32() {
  const uint64_t high = bits();
  return fmt::format("{:016x}{:016x}", high, bits());
}

}  // namespace nibble::server
