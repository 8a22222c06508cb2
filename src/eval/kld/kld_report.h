// The figures of a KL divergence: from position records to means, percentiles and splits.
//
// Names and order follow llama.cpp's output so that both can be read side by side (spec eval.md
// 3.2). Pure functions; plain sums over all records in their order.
#pragma once

#include "eval/kld/position_record.h"
#include "eval/kld/token_kind.h"
#include "eval/statistics.h"

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nibble::eval {

/// Percentages at which a Spread is taken, from maximum to minimum.
inline constexpr std::array<double, 13> kSpreadPercents = {100, 99.9, 99, 95, 90,  75, 50,
                                                           25,  10,   5,  1,  0.1, 0};
using Spread = std::array<double, kSpreadPercents.size()>;

/// values: not empty.
Spread spread_of(std::vector<double> values);

/// One part of a split.
struct KldPart {
  std::string label;
  int64_t tokens = 0;
  double mean_kld = 0;
  double kld_99 = 0;  // 99th percentile
  double same_top = 0;  // share
};

struct KldSplit {
  std::string name;
  std::vector<KldPart> parts;  // empty parts are left out
};

/// Half a decade of KLD; the first bin holds everything below its end, the last all above its
/// begin.
struct HistogramBin {
  double begin = 0, end = 0;
  int64_t count = 0;
};

/// Values over all sequences up to this one.
struct RunningValue {
  int32_t sequence = 0;
  int64_t tokens = 0;
  double perplexity = 0, base_perplexity = 0, mean_kld = 0, same_top = 0;
};

struct KldReport {
  int64_t tokens = 0;
  Estimate perplexity, base_perplexity;
  double correlation = 0;  // of the two nll
  Estimate ln_ratio, ratio, difference;  // of the perplexities, paired
  Estimate kld;
  Spread kld_spread{};
  Estimate dp;  // Q(true) - P(true)
  Spread dp_spread{};
  Estimate rms_dp;
  Estimate same_top;
  double top5_overlap = 0;  // mean share of the five
  double mean_rank = 0;  // of the base's best token under the model
  std::vector<KldSplit> splits;  // by entropy of P, by position, by kind of true token
  std::vector<HistogramBin> histogram;
  std::vector<size_t> worst;  // records, largest divergence first
  std::vector<RunningValue> running;  // one a sequence
};

/// records: not empty, in the order of the text. kinds: of the true tokens, or empty.
KldReport make_kld_report(std::span<const PositionRecord> records,
                          std::span<const TokenKind> kinds);

}  // namespace nibble::eval
