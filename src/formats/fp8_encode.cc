#include "formats/fp8_encode.h"

#include "formats/bf16.h"
#include "formats/e4m3.h"

namespace nibble::formats {

void fp8_encode_row(std::span<const float> row, float weight_scale, ScalarDivision division,
                    uint8_t* codes) {
  const float divisor =
      division == ScalarDivision::recip ? round_to_bf16(weight_scale) : weight_scale;
  for (size_t i = 0; i < row.size(); ++i) codes[i] = e4m3_from_f32(round_to_bf16(row[i] / divisor));
}

}  // namespace nibble::formats
