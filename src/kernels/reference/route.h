// Top-k routing in double: the oracle of kernels/cpu/route.
#pragma once

#include <cstdint>
#include <vector>

namespace nibble::reference {

struct Routing {
  std::vector<int32_t> experts;  // falling logit; ties: lowest index first
  std::vector<double> weights;  // softmax over the chosen logits
};

/// One row of finite logits; forced: the choice to use instead, or null.
Routing moe_route(const float* logits, const int32_t* forced, int64_t num_experts,
                  int64_t num_chosen);

}  // namespace nibble::reference
