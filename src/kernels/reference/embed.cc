// One row, element by element.
#include "kernels/reference/embed.h"

#include "base/check.h"
#include "formats/bf16.h"

namespace nibble::reference {

void embedding_row(const void* table, DType dtype, int64_t row, int64_t n, double* out) {
  NIBBLE_CHECK(dtype == DType::f32 || dtype == DType::bf16, "embedding type", dtype_name(dtype));
  for (int64_t i = 0; i < n; ++i) {
    const int64_t index = row * n + i;
    out[i] = dtype == DType::f32 ? static_cast<const float*>(table)[index]
                                 : formats::bf16_to_f32(static_cast<const uint16_t*>(table)[index]);
  }
}

}  // namespace nibble::reference
