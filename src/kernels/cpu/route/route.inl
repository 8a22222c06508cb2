// Top-k routing; included inside an anonymous namespace per ISA level.

/// NaN orders as -infinity.
inline float route_key(float logit) {
  return logit == logit ? logit : -__builtin_inff();
}

/// Keeps the chosen sorted by falling logit; a later equal logit goes behind an earlier one.
inline void choose_top(const float* logits, int64_t num_experts, int64_t num_chosen,
                       int32_t* experts) {
  int64_t chosen = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    const float key = route_key(logits[e]);
    if (chosen == num_chosen && !(key > route_key(logits[experts[chosen - 1]]))) continue;
    int64_t place = chosen < num_chosen ? chosen++ : num_chosen - 1;
    for (; place > 0 && key > route_key(logits[experts[place - 1]]); --place) {
      experts[place] = experts[place - 1];
    }
    experts[place] = static_cast<int32_t>(e);
  }
}

void moe_route(const MoeRouteArgs& args, int64_t first, int64_t last) noexcept {
  const int64_t num_chosen = args.num_chosen;
  for (int64_t row = first; row < last; ++row) {
    const float* logits = args.logits + row * args.num_experts;
    int32_t* experts = args.experts + row * num_chosen;
    float* weights = args.weights + row * num_chosen;
    if (args.forced == nullptr) {
      choose_top(logits, args.num_experts, num_chosen, experts);
    } else {
      __builtin_memcpy(experts, args.forced + row * num_chosen,
                       static_cast<size_t>(num_chosen) * sizeof(int32_t));
    }
    float top = logits[experts[0]];
    for (int64_t k = 0; k < num_chosen; ++k) {
      weights[k] = logits[experts[k]];
      if (weights[k] > top) top = weights[k];
    }
    for_vectors(num_chosen, [&](int64_t k, int64_t count) {
      v_store_part(weights + k, v_exp(v_load_part(weights + k, count) - v_set(top)), count);
    });
    float sum = 0;
    for (int64_t k = 0; k < num_chosen; ++k) sum += weights[k];
    for (int64_t k = 0; k < num_chosen; ++k) weights[k] /= sum;
  }
}
