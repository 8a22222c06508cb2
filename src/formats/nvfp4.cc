#include "formats/nvfp4.h"

#include "formats/e2m1.h"
#include "formats/e4m3.h"

namespace nibble::formats {

void nvfp4_decode_row(const uint8_t* codes, const uint8_t* scales, float tensor_scale, int64_t k,
                      float* out) noexcept {
  for (int64_t block = 0; block < k / kNvfp4Block; ++block) {
    const float scale = e4m3_to_f32(scales[block] & 0x7F) * tensor_scale;
    for (int64_t i = block * kNvfp4Block; i < (block + 1) * kNvfp4Block; ++i) {
      out[i] = scale * e2m1_to_f32(nvfp4_code(codes, i));
    }
  }
}

bool nvfp4_scales_have_nan(const uint8_t* scales, int64_t count) noexcept {
  // Branch-free so that the compiler vectorises it: this reads a ninth of a checkpoint.
  uint8_t found = 0;
  for (int64_t i = 0; i < count; ++i) found |= static_cast<uint8_t>((scales[i] & 0x7F) == 0x7F);
  return found != 0;
}

}  // namespace nibble::formats
