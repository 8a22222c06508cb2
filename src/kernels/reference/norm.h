// Both RMS norms in double: the oracle of kernels/cpu/norm.
#pragma once

#include <cstdint>

namespace nibble::reference {

/// out[i] = x[i] / sqrt(mean(x^2) + eps) * (1 + weight[i]), one row of n.
void rms_norm(const float* x, const float* weight, int64_t n, double eps, double* out);

/// out[i] = core[i] / sqrt(mean(core^2) + eps) * weight[i] * silu(z[i]), one head of n.
void gated_rms_norm(const float* core, const float* z, const float* weight, int64_t n, double eps,
                    double* out);

}  // namespace nibble::reference
