// SHA-256 (OpenSSL EVP) and a fast 64-bit hash for tables and seeds (FNV-1a).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace nibble {

/// Lower-case hex digest.
std::string sha256_hex(std::span<const std::byte> bytes);

constexpr uint64_t fnv1a(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  return hash;
}

}  // namespace nibble
