// The most likely token of each logits row, with its log probability.
#pragma once

#include "kernels/cuda/args.h"

namespace nibble::cuda {

struct GreedyResult {
  int32_t token;  // ties: lowest id
  float logprob;
  int32_t finite;  // 0: a logit was NaN or infinite
};

struct GreedyArgs {
  const float* logits;  // row i at i * stride
  int64_t stride;
  int32_t limit;  // ids below this count
  int32_t rows;
  void* partial;  // kGreedyPartialBytes per row, 16-byte aligned; zeros before the first launch
  GreedyResult* out;  // [rows], device memory or pinned host memory
};
inline constexpr size_t kGreedyPartialBytes = 128 * 16 + 16;
void greedy(const GreedyArgs& args, Stream stream);

}  // namespace nibble::cuda
