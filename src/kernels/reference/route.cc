// Routing by a stable sort.
#include "kernels/reference/route.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nibble::reference {

Routing moe_route(const float* logits, const int32_t* forced, int64_t num_experts,
                  int64_t num_chosen) {
  Routing routing;
  if (forced != nullptr) {
    routing.experts.assign(forced, forced + num_chosen);
  } else {
    routing.experts.resize(static_cast<size_t>(num_experts));
    std::iota(routing.experts.begin(), routing.experts.end(), 0);
    std::stable_sort(routing.experts.begin(), routing.experts.end(),
                     [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    routing.experts.resize(static_cast<size_t>(num_chosen));
  }
  double maximum = logits[routing.experts[0]];
  for (int32_t e : routing.experts) maximum = std::max(maximum, double{logits[e]});
  double sum = 0;
  for (int32_t e : routing.experts) sum += std::exp(logits[e] - maximum);
  for (int32_t e : routing.experts) routing.weights.push_back(std::exp(logits[e] - maximum) / sum);
  return routing;
}

}  // namespace nibble::reference
