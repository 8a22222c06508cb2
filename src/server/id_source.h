// Random names and seeds: "chatcmpl-<32 hex>", request ids, seeds of unseeded requests.
//
// Unique within a process and random across processes; not a secret. Safe from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace nibble::server {

class IdSource {
 public:
  IdSource();  // seeded by the system
  explicit IdSource(uint64_t seed) : seed_(seed) {}

  uint64_t bits();
  /// 32 lower-case hex digits.
  std::string hex32();

 private:
  uint64_t seed_;
  std::atomic<uint64_t> counter_{0};
};

}  // namespace nibble::server
