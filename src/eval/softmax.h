// Log-probabilities of one row of logits.
//
// The maximum is taken out in f32 (exact differences of near values), everything after is double.
// Plain sums over the whole vocabulary: no term is dropped, none is vectorized out of order.
#pragma once

#include <cstdint>
#include <span>

namespace nibble::eval {

/// ln sum exp(row). NaN if an entry is NaN; entries of -inf count as probability 0.
double log_sum_exp(std::span<const float> row);

/// -ln softmax(row)[token].
double negative_log_likelihood(std::span<const float> row, int32_t token);

}  // namespace nibble::eval
