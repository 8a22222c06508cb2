#include "quantize/finite_check.h"

#include <cstring>

namespace nibble::quantize {

// NaN and infinity are the values with all exponent bits set.
int64_t count_not_finite(ConstTensorView view) {
  const int64_t count = view.shape().elements();
  int64_t found = 0;
  if (view.dtype() == DType::f32) {
    for (int64_t i = 0; i < count; ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, view.data() + 4 * i, sizeof bits);
      found += (bits & 0x7F800000u) == 0x7F800000u;
    }
  } else if (view.dtype() == DType::bf16 || view.dtype() == DType::f16) {
    const unsigned exponent = view.dtype() == DType::bf16 ? 0x7F80u : 0x7C00u;
    for (int64_t i = 0; i < count; ++i) {
      uint16_t bits = 0;
      std::memcpy(&bits, view.data() + 2 * i, sizeof bits);
      found += (bits & exponent) == exponent;
    }
  }
  return found;
}

}  // namespace nibble::quantize
