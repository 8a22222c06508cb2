#include "formats/fp8.h"

#include "formats/e4m3.h"

namespace nibble::formats {

void fp8_decode_row(const uint8_t* codes, float weight_scale, int64_t k, float* out) noexcept {
  for (int64_t i = 0; i < k; ++i) out[i] = e4m3_to_f32(codes[i]) * weight_scale;
}

}  // namespace nibble::formats
