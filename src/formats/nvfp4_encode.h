// NVFP4 encoding: scalar divisions, block scales and codes exactly as ModelOpt computes them.
//
// Spec nvfp4.md 1.3-1.7, referee: the quantizer goldens. Every operation is one IEEE f32 operation
// in the order written; nothing may be contracted, reassociated or approximated. Pure functions;
// any thread.
#pragma once

#include "formats/nvfp4_rules.h"

#include <cstdint>
#include <span>

namespace nibble::formats {

/// x / divisor under the rules.
float divide_scalar(float x, float divisor, ScalarDivision division);

/// weight_scale_2 and input_scale of NVFP4: amax / (6 * 448).
float nvfp4_tensor_scale(float amax, ScalarDivision division);

/// KV and FP8 scale: amax / 448.
float fp8_tensor_scale(float amax, ScalarDivision division);

/// The larger of two magnitudes; NaN if either is.
[[maybe_unused]] static constexpr float max_or_nan(float a, float b) {
  return a != a || b <= a ? a : b;
}

/// Largest magnitude; NaN if any element is NaN, as torch.amax gives.
float max_magnitude(std::span<const float> values);

/// One row, max rule: codes [k/2] (low nibble = even k) and block scales [k/16]. k % 16 == 0.
void encode_nvfp4_row(std::span<const float> row, float tensor_scale, const Nvfp4Rules& rules,
                      uint8_t* codes, uint8_t* block_scales);

/// Block scale byte of the static path, from a searched block maximum (nvfp4.md 1.5b). norm: 448,
/// or 256 for four-over-six.
uint8_t static_block_scale(float block_amax, float global_amax, float norm,
                           const Nvfp4Rules& rules);

/// Codes of one row for given block scale bytes.
void encode_nvfp4_codes(std::span<const float> row, float tensor_scale, const uint8_t* block_scales,
                        uint8_t* codes);

}  // namespace nibble::formats
