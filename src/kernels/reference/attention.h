// Softmax attention of one query over plain keys and values in double: the oracle of
// kernels/cpu/attention. Paging and storage types are the test's business.
#pragma once

#include <cstdint>

namespace nibble::reference {

/// out = sum_n softmax(query . keys[n] / sqrt(head_dim)) values[n]; keys and values
/// [num_keys][head_dim].
void attention(const float* query, const double* keys, const double* values, int64_t num_keys,
               int64_t head_dim, double* out);

}  // namespace nibble::reference
