// Embedding lookup: the oracle of kernels/cpu/embed.
#pragma once

#include "tensor/dtype.h"

#include <cstdint>

namespace nibble::reference {

/// out = row `row` of a table [.][n] of f32 or bf16.
void embedding_row(const void* table, DType dtype, int64_t row, int64_t n, double* out);

}  // namespace nibble::reference
