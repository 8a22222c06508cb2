// MeasuredQuality: what a finished checkpoint's predictions differ by from its source's, as the
// report and the model card tell it. Measured by whoever can run both (cli), before publishing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::quantize {

/// A value with its standard error.
struct Figure {
  double value = 0;
  double error = 0;
};

struct MeasuredQuality {
  std::string text;  // "259 documents of heldout.txt"
  std::string text_sha256;
  std::string run;  // "arithmetic exact, KV cache BF16"
  int64_t tokens = 0;  // scored
  Figure perplexity, base_perplexity, perplexity_ratio;  // the ratio's error is paired
  Figure kld;  // mean, nats, over all scored tokens
  double kld_99 = 0;  // 99th percentile
  double same_top = 0;  // share of tokens with the same most likely token

  /// The source against itself, computed in another way.
  struct Noise {
    std::string name;
    double kld = 0;
    int64_t tokens = 0;
  };
  std::vector<Noise> noise;
};

}  // namespace nibble::quantize
