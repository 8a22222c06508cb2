// The convolution as written in qwen3_5_moe.md 3.6 (b).
#include "kernels/reference/conv.h"

#include "kernels/reference/elementwise.h"

namespace nibble::reference {

void short_conv(const float* x, const float* weight, int64_t tokens, int64_t channels,
                int64_t kernel, double* out) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t j = 0; j < kernel; ++j) {
        sum += double{weight[c * kernel + j]} * x[(t - kernel + 1 + j) * channels + c];
      }
      out[t * channels + c] = silu(sum);
    }
  }
}

}  // namespace nibble::reference
