#include "eval/kld/kld_result.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <iterator>
#include <utility>

namespace nibble::eval {
namespace {

// Percentages that llama.cpp prints for the divergence too (it leaves out the quartiles).
bool is_printed_for_kld(double percent) {
  return percent != 75 && percent != 25;
}

void print_perplexity(const KldReport& r, std::string& out) {
  const auto line = [&](const char* name, const Estimate& e) {
    fmt::format_to(std::back_inserter(out), "{:<31}: {:10.6f} +/- {:10.6f}\n", name, e.value,
                   e.error);
  };
  out += "====== Perplexity statistics ======\n";
  line("Mean PPL(Q)", r.perplexity);
  line("Mean PPL(base)", r.base_perplexity);
  fmt::format_to(std::back_inserter(out), "{:<31}: {:6.2f}%\n", "Cor(ln(PPL(Q)), ln(PPL(base)))",
                 100 * r.correlation);
  line("Mean ln(PPL(Q)/PPL(base))", r.ln_ratio);
  line("Mean PPL(Q)/PPL(base)", r.ratio);
  line("Mean PPL(Q)-PPL(base)", r.difference);
}

void print_divergence(const KldReport& r, std::string& out) {
  const auto to = std::back_inserter(out);
  out += "\n====== KL divergence statistics ======\n";
  fmt::format_to(to, "{:<8}KLD: {:11.7f} +/- {:10.7f}\n", "Mean", r.kld.value, r.kld.error);
  for (size_t i = 0; i < kSpreadPercents.size(); ++i) {
    if (!is_printed_for_kld(kSpreadPercents[i])) continue;
    fmt::format_to(to, "{:<8}KLD: {:11.7f}\n", spread_label(i), r.kld_spread[i]);
  }
}

void print_probability(const KldReport& r, std::string& out) {
  const auto to = std::back_inserter(out);
  out += "\n====== Token probability statistics ======\n";
  fmt::format_to(to, "{:<8}dp : {:8.4f} +/- {:6.4f} %\n", "Mean", 100 * r.dp.value,
                 100 * r.dp.error);
  for (size_t i = 0; i < kSpreadPercents.size(); ++i) {
    fmt::format_to(to, "{:<8}dp : {:8.4f} %\n", spread_label(i), 100 * r.dp_spread[i]);
  }
  fmt::format_to(to, "{:<8}dp : {:8.4f} +/- {:6.4f} %\n", "RMS", 100 * r.rms_dp.value,
                 100 * r.rms_dp.error);
  fmt::format_to(to, "{:<12}: {:8.3f} +/- {:6.3f} %\n", "Same top p", 100 * r.same_top.value,
                 100 * r.same_top.error);
  fmt::format_to(to, "{:<12}: {:8.3f} %\n", "Top-5 common", 100 * r.top5_overlap);
  fmt::format_to(to, "{:<12}: {:8.3f}\n", "Mean rank", r.mean_rank);
}

void print_splits(const KldReport& r, std::string& out) {
  const auto to = std::back_inserter(out);
  for (const KldSplit& split : r.splits) {
    fmt::format_to(to, "\n{:<24} {:>8} {:>11} {:>11} {:>10}\n", "by " + split.name, "tokens",
                   "mean KLD", "99% KLD", "same top");
    for (const KldPart& part : split.parts) {
      fmt::format_to(to, "{:<24} {:>8} {:>11.7f} {:>11.7f} {:>8.2f} %\n", part.label, part.tokens,
                     part.mean_kld, part.kld_99, 100 * part.same_top);
    }
  }
}

void print_layers(const KldResult& result, std::string& out) {
  const auto to = std::back_inserter(out);
  if (result.layers.empty()) return;
  fmt::format_to(to, "\n{:<6} {:>12} {:>12}", "layer", "1 - cosine", "rel. RMS");
  if (!result.routing.empty()) {
    fmt::format_to(to, " {:>13} {:>9} {:>12}", "same experts", "overlap", "router KLD");
  }
  out += "\n";
  for (size_t i = 0; i < result.layers.size(); ++i) {
    const HiddenError& layer = result.layers[i];
    fmt::format_to(to, "{:<6} {:>12.3e} {:>12.3e}", i, 1 - layer.cosine(), layer.relative_rms());
    if (!result.routing.empty()) {
      const RoutingAgreement& routing = result.routing[i];
      fmt::format_to(to, " {:>11.2f} % {:>7.2f} % {:>12.3e}", 100 * routing.same_set().value,
                     100 * routing.overlap(), routing.kld().value);
    }
    out += "\n";
  }
}

void print_noise(const KldResult& result, std::string& out) {
  const auto to = std::back_inserter(out);
  for (const NoiseFloor& floor : result.noise) {
    fmt::format_to(to,
                   "\nNoise floor, base against base {}: KLD {:.3e} +/- {:.1e}, maximum {:.3e}, "
                   "same top {:.3f} % ({} tokens)",
                   floor.name, floor.kld.value, floor.kld.error, floor.largest,
                   100 * floor.same_top, floor.tokens);
  }
  if (!result.noise.empty()) out += "\n";
}

OrderedJson json_of(const Estimate& estimate) {
  return {{"value", estimate.value}, {"error", estimate.error}};
}

OrderedJson json_of(const Spread& spread) {
  OrderedJson out = OrderedJson::object();
  for (size_t i = 0; i < spread.size(); ++i) {
    out[fmt::format("{:g}", kSpreadPercents[i])] = spread[i];
  }
  return out;
}

OrderedJson totals_json(const KldReport& r) {
  return {{"tokens", r.tokens},
          {"kld", json_of(r.kld)},
          {"kld_percentiles", json_of(r.kld_spread)},
          {"perplexity", json_of(r.perplexity)},
          {"base_perplexity", json_of(r.base_perplexity)},
          {"nll_correlation", r.correlation},
          {"ln_perplexity_ratio", json_of(r.ln_ratio)},
          {"perplexity_ratio", json_of(r.ratio)},
          {"perplexity_difference", json_of(r.difference)},
          {"dp", json_of(r.dp)},
          {"dp_percentiles", json_of(r.dp_spread)},
          {"dp_rms", json_of(r.rms_dp)},
          {"same_top", json_of(r.same_top)},
          {"top5_overlap", r.top5_overlap},
          {"mean_rank", r.mean_rank}};
}

OrderedJson splits_json(const KldReport& report) {
  OrderedJson out = OrderedJson::array();
  for (const KldSplit& split : report.splits) {
    OrderedJson parts = OrderedJson::array();
    for (const KldPart& part : split.parts) {
      parts.push_back({{"label", part.label},
                       {"tokens", part.tokens},
                       {"kld", part.mean_kld},
                       {"kld_99", part.kld_99},
                       {"same_top", part.same_top}});
    }
    out.push_back({{"by", split.name}, {"parts", parts}});
  }
  return out;
}

OrderedJson layers_json(const KldResult& result) {
  OrderedJson out = OrderedJson::array();
  for (size_t i = 0; i < result.layers.size(); ++i) {
    OrderedJson layer = {{"layer", i},
                         {"rows", result.layers[i].rows()},
                         {"cosine", result.layers[i].cosine()},
                         {"relative_rms", result.layers[i].relative_rms()}};
    if (!result.routing.empty()) {
      layer["same_experts"] = json_of(result.routing[i].same_set());
      layer["expert_overlap"] = result.routing[i].overlap();
      layer["router_kld"] = json_of(result.routing[i].kld());
    }
    out.push_back(layer);
  }
  return out;
}

OrderedJson worst_json(const KldResult& result) {
  OrderedJson out = OrderedJson::array();
  for (const WorstPosition& worst : result.worst) {
    const PositionRecord& r = worst.record;
    out.push_back({{"sequence", r.sequence + 1},
                   {"position", r.position},
                   {"kld", r.kld},
                   {"base_probability", r.base_probability()},
                   {"probability", r.probability()},
                   {"before", worst.before},
                   {"token", worst.token},
                   {"after", worst.after},
                   {"base_top", worst.base_top},
                   {"top", worst.top}});
  }
  return out;
}

}  // namespace

NoiseFloor noise_floor_of(std::string name, std::span<const PositionRecord> records) {
  NoiseFloor floor;
  floor.name = std::move(name);
  MeanSum sum;
  int64_t same = 0;
  for (const PositionRecord& record : records) {
    sum.add(record.kld);
    same += record.top == record.base_top;
    floor.largest = std::max(floor.largest, record.kld);
  }
  floor.tokens = sum.count();
  floor.kld = sum.estimate();
  floor.same_top = share(same, sum.count()).value;
  return floor;
}

std::string noise_remark(const KldResult& result) {
  double largest = 0;
  for (const NoiseFloor& floor : result.noise) largest = std::max(largest, floor.kld.value);
  if (largest <= kNoiseGoal) return "";
  return fmt::format(
      "the noise floor, {:.1e}, is above {:.0e}: rounding linear inputs to BF16 turns router "
      "choices "
      "that are nearly tied. Measure it over more tokens (--noise-tokens), or compare with "
      "--arithmetic f32, where nothing is rounded to BF16",
      largest, kNoiseGoal);
}

std::string spread_label(size_t index) {
  const double percent = kSpreadPercents[index];
  if (percent == 100) return "Maximum";
  if (percent == 50) return "Median";
  if (percent == 0) return "Minimum";
  return fmt::format("{:.1f}%", percent);
}

std::string kld_text(const KldResult& result) {
  std::string out = fmt::format("base   {} ({})\nmodel  {} ({})\ntext   {}, {} tokens scored\n",
                                result.base, result.base_run, result.model, result.model_run,
                                result.text, result.report.tokens);
  for (const std::string& remark : result.remarks) out += "note   " + remark + "\n";
  out += "\n";
  print_perplexity(result.report, out);
  print_divergence(result.report, out);
  print_probability(result.report, out);
  print_splits(result.report, out);
  print_layers(result, out);
  print_noise(result, out);
  return out;
}

OrderedJson kld_json(const KldResult& result) {
  OrderedJson items = OrderedJson::array();
  for (const RunningValue& value : result.report.running) {
    items.push_back({{"sequence", value.sequence + 1},
                     {"tokens_so_far", value.tokens},
                     {"running_perplexity", value.perplexity},
                     {"running_base_perplexity", value.base_perplexity},
                     {"running_kld", value.mean_kld},
                     {"running_same_top", value.same_top}});
  }
  OrderedJson noise = OrderedJson::array();
  for (const NoiseFloor& floor : result.noise) {
    noise.push_back({{"base_against_base", floor.name},
                     {"tokens", floor.tokens},
                     {"kld", json_of(floor.kld)},
                     {"kld_maximum", floor.largest},
                     {"same_top", floor.same_top}});
  }
  OrderedJson histogram = OrderedJson::array();
  for (const HistogramBin& bin : result.report.histogram) {
    histogram.push_back({{"begin", bin.begin}, {"end", bin.end}, {"count", bin.count}});
  }
  return {{"base", result.base},
          {"base_run", result.base_run},
          {"remarks", result.remarks},
          {"totals", totals_json(result.report)},
          {"noise_floor", noise},
          {"layers", layers_json(result)},
          {"splits", splits_json(result.report)},
          {"histogram", histogram},
          {"worst", worst_json(result)},
          {"items", items}};
}

}  // namespace nibble::eval
