// The packed layout of weights that every CPU level reads, and the functions that write it.
//
// A matrix [N][K] becomes ceil(N/16) panels of 16 rows, each contiguous along k, padded with zeros
// to K % 16 == 0 and N % 16 == 0. Lane r of a 64-byte line belongs to row r of the panel:
//   bf16    line per 2 k: dword r = {k, k+1}                                   32 bytes per k
//   fp8     line per 4 k: dword r, bytes {k, k+2, k+1, k+3}                    16 bytes per k
//   nvfp4   line per 8 k: dword r, nibbles {k, k+2, k+4, k+6, k+1, k+3, k+5, k+7}; two lines are a
//           block of 16 k. Four blocks (512 bytes) are followed by their 64 scale bytes
//           [block][row]; the last group is padded to four blocks. A scale byte is the E4M3 value's
//           exponent + 10 (five bits) and mantissa (three), sign dropped: f32 bits (byte << 20) +
//           (117 << 23) for every value but 0, where all codes of the row's block are 0 instead. A
//           NaN scale has no code: the loader refuses it.
// So that a shift and a 16-bit table lookup give pairs {k, k+1} without masks. A gate_up matrix has
// its panels interleaved: gate panel 0, up panel 0, gate panel 1, ...
#pragma once

#include "kernels/cpu/linear/linear.h"

#include <cstddef>
#include <cstdint>

namespace nibble::cpu {

/// One matrix as the checkpoint has it. scales: NVFP4 block scales [n][k/16], else null.
/// weight: bf16 [n][k], fp8 bytes [n][k] or NVFP4 codes [n][k/2] (k % 16 == 0), rows contiguous.
struct LinearSource {
  PanelFormat format;
  int64_t n, k;
  const unsigned char* weight;
  const unsigned char* scales;
};

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

constexpr int64_t num_panels(int64_t n) {
  return ceil_div(n, kPanelRows);
}

/// Bytes of one panel, a multiple of 64.
constexpr int64_t panel_bytes(PanelFormat format, int64_t k) {
  const int64_t blocks = ceil_div(k, kBlockK);
  switch (format) {
    case PanelFormat::bf16:
      return blocks * 512;
    case PanelFormat::fp8:
      return blocks * 256;
    case PanelFormat::nvfp4:
      return ceil_div(blocks, 4) * 576;
  }
  return 0;
}

constexpr size_t packed_linear_bytes(PanelFormat format, int64_t n, int64_t k) {
  return static_cast<size_t>(num_panels(n) * panel_bytes(format, k));
}

/// Gate and up together; n is the rows of each.
constexpr size_t packed_gate_up_bytes(PanelFormat format, int64_t n, int64_t k) {
  return 2 * packed_linear_bytes(format, n, k);
}

/// Writes panels [begin, end) of `source` to their places behind `destination` (the whole matrix,
/// 64-byte aligned). Any number of threads on disjoint panels.
void pack_linear_panels(const LinearSource& source, unsigned char* destination, int64_t begin,
                        int64_t end) noexcept;

/// The same for gate and up (one format and shape): panels [begin, end) of each.
void pack_gate_up_panels(const LinearSource& gate, const LinearSource& up,
                         unsigned char* destination, int64_t begin, int64_t end) noexcept;

}  // namespace nibble::cpu
