#include "base/cpu_features.h"

#include <sched.h>

#include <cpuid.h>
#include <cstdint>
#include <fstream>
#include <set>

namespace nibble {
namespace {

struct CpuidLeaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidLeaf cpuid(uint32_t leaf, uint32_t subleaf) {
  CpuidLeaf out;
  if (__get_cpuid_count(leaf, subleaf, &out.eax, &out.ebx, &out.ecx, &out.edx) == 0) return {};
  return out;
}

uint64_t xgetbv0() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

bool bit(uint32_t word, int index) {
  return (word >> index) & 1U;
}

constexpr IsaLevel kLevels[] = {IsaLevel::scalar, IsaLevel::avx2, IsaLevel::avx512,
                                IsaLevel::avx512_dot};

std::string level_names(IsaLevel highest) {
  std::string names;
  for (const IsaLevel level : isa_levels_up_to(highest)) {
    if (!names.empty()) names += ", ";
    names += isa_level_name(level);
  }
  return names;
}

}  // namespace

const char* isa_level_name(IsaLevel level) {
  switch (level) {
    case IsaLevel::scalar:
      return "scalar";
    case IsaLevel::avx2:
      return "avx2";
    case IsaLevel::avx512:
      return "avx512";
    case IsaLevel::avx512_dot:
      return "avx512_dot";
  }
  return "unknown";
}

IsaLevel detect_isa_level() {
  const CpuidLeaf basic = cpuid(1, 0);
  const bool osxsave = bit(basic.ecx, 27);
  const uint64_t enabled = osxsave ? xgetbv0() : 0;
  const bool ymm = (enabled & 0x6) == 0x6;
  const bool zmm = (enabled & 0xE6) == 0xE6;
  const CpuidLeaf extended = cpuid(7, 0);
  const CpuidLeaf extended1 = cpuid(7, 1);
  const bool avx2 = ymm && bit(basic.ecx, 28) && bit(basic.ecx, 12) && bit(basic.ecx, 29) &&
                    bit(extended.ebx, 5) && bit(extended.ebx, 8);
  if (!avx2) return IsaLevel::scalar;
  const bool avx512 = zmm && bit(extended.ebx, 16) && bit(extended.ebx, 17) &&
                      bit(extended.ebx, 30) && bit(extended.ebx, 31);
  if (!avx512) return IsaLevel::avx2;
  const bool dot = bit(extended.ecx, 11) && bit(extended1.eax, 5);
  return dot ? IsaLevel::avx512_dot : IsaLevel::avx512;
}

std::vector<IsaLevel> isa_levels_up_to(IsaLevel highest) {
  std::vector<IsaLevel> levels;
  for (const IsaLevel level : kLevels) {
    if (level <= highest) levels.push_back(level);
  }
  return levels;
}

Result<IsaLevel> select_isa_level(const std::string& forced) {
  const IsaLevel best = detect_isa_level();
  if (forced.empty()) return best;
  for (const IsaLevel level : isa_levels_up_to(best)) {
    if (forced == isa_level_name(level)) return level;
  }
  return Error{ErrorCode::unsupported, "NIBBLE_FORCE_ISA: found '" + forced +
                                           "', this machine supports: " + level_names(best)};
}

std::vector<int> usable_physical_cores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return {0};
  std::vector<int> cores;
  std::set<std::string> seen_siblings;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask)) continue;
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                       "/topology/thread_siblings_list");
    std::string siblings;
    std::getline(file, siblings);
    if (siblings.empty() || seen_siblings.insert(siblings).second) cores.push_back(cpu);
  }
  return cores.empty() ? std::vector<int>{0} : cores;
}

}  // namespace nibble
