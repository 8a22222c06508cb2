// The gated delta rule and its gates in double, token by token in the defining order: the oracle of
// kernels/cpu/delta, of the chunked form too.
#pragma once

#include <cstdint>

namespace nibble::reference {

/// g = -exp(a_log) * softplus(a + dt_bias).
double delta_decay(float a, float a_log, float dt_bias);

/// One token of one value head. q and k are raw rows of key_dim; v has value_dim.
struct DeltaToken {
  const float* q;
  const float* k;
  const float* v;
  double g;
  double beta;
};

/// One step (qwen3_5_moe.md 3.6 e, g): state [key_dim][value_dim] is advanced in place; out
/// [value_dim].
void gated_delta_step(const DeltaToken& token, int64_t key_dim, int64_t value_dim, double* state,
                      double* out);

}  // namespace nibble::reference
