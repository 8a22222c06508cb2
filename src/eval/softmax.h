// Log-probabilities of one row of logits.
//
// In double, the maximum taken out. Plain sums over the whole vocabulary in id order: no term is
// dropped.
#pragma once

#include <cstdint>
#include <span>

namespace nibble::eval {

/// ln sum exp(row). NaN if an entry is NaN; entries of -inf count as probability 0.
double log_sum_exp(std::span<const float> row);

/// -ln softmax(row)[token].
double negative_log_likelihood(std::span<const float> row, int32_t token);

}  // namespace nibble::eval
