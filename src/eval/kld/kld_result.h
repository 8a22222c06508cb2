// Everything a finished comparison has to say, in one struct, and its two plain forms: text for the
// terminal, JSON for the result file. The HTML form is html_report.h.
#pragma once

#include "base/json.h"
#include "eval/kld/kld_report.h"
#include "eval/kld/layer_errors.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nibble::eval {

/// One way of computing the base against another: what a difference must exceed to mean anything.
struct NoiseFloor {
  std::string name;
  int64_t tokens = 0;
  Estimate kld;
  double largest = 0;
  double same_top = 0;
};
NoiseFloor noise_floor_of(std::string name, std::span<const PositionRecord> records);

/// One of the worst positions with the text around it.
struct WorstPosition {
  PositionRecord record;
  std::string before, token, after;  // text
  std::string base_top, top;  // the arg-max tokens
};

struct KldResult {
  std::string base, model;  // how they are called
  std::string base_run, model_run;  // "exact, KV BF16, cpu avx512_dot, 2 threads"
  std::string text;  // "75 windows of 512 tokens of FILE"
  std::vector<std::string> remarks;  // "lower bound: ..." and the like
  KldReport report;
  std::vector<HiddenError> layers;
  std::vector<RoutingAgreement> routing;
  std::vector<NoiseFloor> noise;
  std::vector<WorstPosition> worst;
};

/// Two ways of computing one model should stay below this (spec eval.md 3.4).
inline constexpr double kNoiseGoal = 1e-4;

/// What to do when the noise is above kNoiseGoal; else empty.
std::string noise_remark(const KldResult& result);

/// "99.9%", "Median", "Maximum" for kSpreadPercents[index].
std::string spread_label(size_t index);

std::string kld_text(const KldResult& result);
/// The members of the result file behind its head: totals, splits, layers, worst positions, items.
OrderedJson kld_json(const KldResult& result);

}  // namespace nibble::eval
