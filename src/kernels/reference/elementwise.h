// Activation functions and elementwise operations in double: the oracle of
// kernels/cpu/elementwise and of everything that applies a SiLU.
#pragma once

#include <cstdint>

namespace nibble::reference {

double sigmoid(double x);
double silu(double x);
double softplus(double x);

/// out[i] = x[i] * sigmoid(gate[i]).
void sigmoid_gate(const float* x, const float* gate, int64_t n, double* out);

/// out[i] = base[i] + routed[i] + sigmoid(gate_logit) * shared[i]; base may be null (zeros).
void moe_add_shared(const float* base, const float* routed, const float* shared, float gate_logit,
                    int64_t n, double* out);

}  // namespace nibble::reference
