// Writes the packed weight layout; see packed_weights.h for the order of lanes and nibbles.
#include "kernels/cpu/linear/packed_weights.h"

#include <cstring>

namespace nibble::cpu {
namespace {

// The rows of one panel, null beyond n, and what lies between blocks.
struct PanelRowsView {
  const unsigned char* weight[kPanelRows];
  const unsigned char* scales[kPanelRows];
};

PanelRowsView panel_rows(const LinearSource& source, int64_t panel) {
  const int64_t weight_row_bytes = source.format == PanelFormat::bf16  ? source.k * 2
                                   : source.format == PanelFormat::fp8 ? source.k
                                                                       : source.k / 2;
  PanelRowsView rows{};
  for (int64_t r = 0; r < kPanelRows; ++r) {
    const int64_t row = panel * kPanelRows + r;
    if (row >= source.n) break;
    rows.weight[r] = source.weight + row * weight_row_bytes;
    if (source.scales != nullptr) rows.scales[r] = source.scales + row * (source.k / kBlockK);
  }
  return rows;
}

void pack_panel_bf16(const PanelRowsView& rows, int64_t k, unsigned char* out) {
  for (int64_t r = 0; r < kPanelRows; ++r) {
    if (rows.weight[r] == nullptr) continue;
    unsigned char* lane = out + r * 4;
    for (int64_t pair = 0; pair < k / 2; ++pair) {
      std::memcpy(lane + pair * 64, rows.weight[r] + pair * 4, 4);
    }
    if (k % 2 != 0) std::memcpy(lane + k / 2 * 64, rows.weight[r] + (k - 1) * 2, 2);
  }
}

// Bytes {k, k+1, k+2, k+3} to {k, k+2, k+1, k+3}.
uint32_t swap_middle_bytes(uint32_t word) {
  return (word & 0xFF0000FF) | (word & 0xFF00) << 8 | (word >> 8 & 0xFF00);
}

void pack_panel_fp8(const PanelRowsView& rows, int64_t k, unsigned char* out) {
  for (int64_t r = 0; r < kPanelRows; ++r) {
    if (rows.weight[r] == nullptr) continue;
    unsigned char* lane = out + r * 4;
    for (int64_t i = 0; i < k / 4; ++i) {
      uint32_t word;
      std::memcpy(&word, rows.weight[r] + i * 4, 4);
      word = swap_middle_bytes(word);
      std::memcpy(lane + i * 64, &word, 4);
    }
    uint32_t tail = 0;
    std::memcpy(&tail, rows.weight[r] + k / 4 * 4, static_cast<size_t>(k % 4));
    tail = swap_middle_bytes(tail);
    if (k % 4 != 0) std::memcpy(lane + k / 4 * 64, &tail, 4);
  }
}

// 8 codes, low nibble = even k, to {even ks in the low half, odd ks in the high half}.
uint32_t spread_codes(uint32_t codes) {
  uint32_t even = codes & 0x0F0F0F0F;
  even = (even | even >> 4) & 0x00FF00FF;
  even = (even | even >> 8) & 0xFFFF;
  uint32_t odd = codes >> 4 & 0x0F0F0F0F;
  odd = (odd | odd >> 4) & 0x00FF00FF;
  odd = (odd | odd >> 8) & 0xFFFF;
  return even | odd << 16;
}

// E4M3 without sign to the packed scale code: the value's exponent + 10 in five bits, three
// mantissa bits. Subnormals become normal, so that kernels decode without f32 denormals, which cost
// assists. 0 has no code: the caller clears the block's codes instead.
unsigned char packed_scale(unsigned magnitude) {
  if (magnitude >= 8) return static_cast<unsigned char>(magnitude + 24);
  if (magnitude >= 4) return static_cast<unsigned char>(24 + (magnitude - 4) * 2);
  if (magnitude >= 2) return static_cast<unsigned char>(16 + (magnitude - 2) * 4);
  return static_cast<unsigned char>(magnitude * 8);
}

void pack_panel_nvfp4(const PanelRowsView& rows, int64_t k, unsigned char* out) {
  for (int64_t r = 0; r < kPanelRows; ++r) {
    if (rows.weight[r] == nullptr) continue;
    for (int64_t block = 0; block < k / kBlockK; ++block) {
      const unsigned scale = rows.scales[r][block] & 0x7F;
      if (scale == 0) continue;
      unsigned char* group = out + block / 4 * 576;
      for (int64_t half = 0; half < 2; ++half) {
        uint32_t codes;
        std::memcpy(&codes, rows.weight[r] + block * 8 + half * 4, 4);
        codes = spread_codes(codes);
        std::memcpy(group + block % 4 * 128 + half * 64 + r * 4, &codes, 4);
      }
      group[512 + block % 4 * 16 + r] = packed_scale(scale);
    }
  }
}

void pack_panel(const LinearSource& source, int64_t panel, unsigned char* out) {
  std::memset(out, 0, static_cast<size_t>(panel_bytes(source.format, source.k)));
  const PanelRowsView rows = panel_rows(source, panel);
  switch (source.format) {
    case PanelFormat::bf16:
      return pack_panel_bf16(rows, source.k, out);
    case PanelFormat::fp8:
      return pack_panel_fp8(rows, source.k, out);
    case PanelFormat::nvfp4:
      return pack_panel_nvfp4(rows, source.k, out);
  }
}

}  // namespace

void pack_linear_panels(const LinearSource& source, unsigned char* destination, int64_t begin,
                        int64_t end) noexcept {
  const int64_t bytes = panel_bytes(source.format, source.k);
  for (int64_t panel = begin; panel < end; ++panel) {
    pack_panel(source, panel, destination + panel * bytes);
  }
}

void pack_gate_up_panels(const LinearSource& gate, const LinearSource& up,
                         unsigned char* destination, int64_t begin, int64_t end) noexcept {
  const int64_t bytes = panel_bytes(gate.format, gate.k);
  for (int64_t panel = begin; panel < end; ++panel) {
    pack_panel(gate, panel, destination + 2 * panel * bytes);
    pack_panel(up, panel, destination + (2 * panel + 1) * bytes);
  }
}

}  // namespace nibble::cpu
