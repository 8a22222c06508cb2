#include "eval/kld/html_report.h"

#include "base/html.h"
#include "base/utf8.h"
#include "eval/kld/svg_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <vector>

namespace nibble::eval {
namespace {

constexpr const char* kStyle = R"(
:root { --paper: #fff; --ink: #1c2024; --soft: #667; --line: #dde; --bar: #4b7bb5; --s1: #c2571a; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181c; --ink: #e6e8ea; --soft: #99a; --line: #333a42; --bar: #7aa7dd; --s1: #e8935c; }
}
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em;
       color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; margin: .6em 0; font-variant-numeric: tabular-nums; }
th, td { padding: .15em .8em; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; } td.text { text-align: left; white-space: pre-wrap; }
.big { display: flex; gap: 2em; flex-wrap: wrap; } .big div { min-width: 8em; }
.big b { display: block; font-size: 1.7em; font-weight: 600; }
.soft, .big span { color: var(--soft); } mark { background: none; color: var(--s1); font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1em; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 12px; }
svg .t { font-size: 14px; font-weight: 600; } svg .l { fill: var(--soft); }
svg .g { stroke: var(--line); } svg .b { fill: var(--bar); }
svg polyline { fill: none; stroke-width: 2; } svg polyline.s0 { stroke: var(--bar); }
svg polyline.s1 { stroke: var(--s1); } svg circle.s0, svg text.s0 { fill: var(--bar); }
svg circle.s1, svg text.s1 { fill: var(--s1); }
)";

using Cells = std::vector<std::string>;

// A table; cells are escaped here.
class Table {
 public:
  explicit Table(const Cells& head) { row("th", head); }
  void add(const Cells& cells) { row("td", cells); }
  std::string html() const { return "<table>\n" + rows_ + "</table>\n"; }

 private:
  void row(const char* tag, const Cells& cells) {
    rows_ += "<tr>";
    for (const std::string& cell : cells) {
      rows_ += fmt::format("<{0}>{1}</{0}>", tag, escape_html(cell));
    }
    rows_ += "</tr>\n";
  }
  std::string rows_;
};

std::string percent(double share, int digits = 2) {
  return fmt::format("{:.{}f} %", 100 * share, digits);
}

std::string with_error(const Estimate& e, int digits) {
  return fmt::format("{:.{}f} \xC2\xB1 {:.{}f}", e.value, digits, e.error, digits);
}

std::string headline(const KldResult& result) {
  const KldReport& r = result.report;
  const auto tile = [](const std::string& value, const std::string& name) {
    return fmt::format("<div><b>{}</b><span>{}</span></div>\n", value, name);
  };
  std::string out = "<div class=\"big\">\n";
  out += tile(fmt::format("{:.5f}", r.kld.value), "mean KL divergence, nats");
  out += tile(fmt::format("{:.4f}", r.kld_spread[2]), "99th percentile");
  out += tile(percent(r.same_top.value), "same top token");
  out += tile(fmt::format("{:.5f}", r.ratio.value), "perplexity ratio");
  if (!result.noise.empty()) {
    double floor = 0;
    for (const NoiseFloor& noise : result.noise) floor = std::max(floor, noise.kld.value);
    out += tile(fmt::format("{:.1e}", floor), "noise floor (mean KLD)");
  }
  return out + "</div>\n";
}

std::string statistics(const KldReport& r) {
  Table perplexity({"perplexity", ""});
  perplexity.add({"model", with_error(r.perplexity, 5)});
  perplexity.add({"base", with_error(r.base_perplexity, 5)});
  perplexity.add({"ln ratio, paired", with_error(r.ln_ratio, 6)});
  perplexity.add({"ratio", with_error(r.ratio, 6)});
  perplexity.add({"difference", with_error(r.difference, 6)});
  perplexity.add({"correlation of ln", percent(r.correlation, 3)});
  Table spread({"percentile", "KLD", "dp = Q(true) - P(true)"});
  spread.add(
      {"mean", with_error(r.kld, 6), with_error({100 * r.dp.value, 100 * r.dp.error}, 3) + " %"});
  for (size_t i = 0; i < kSpreadPercents.size(); ++i) {
    spread.add(
        {spread_label(i), fmt::format("{:.7f}", r.kld_spread[i]), percent(r.dp_spread[i], 3)});
  }
  spread.add({"RMS", "", with_error({100 * r.rms_dp.value, 100 * r.rms_dp.error}, 3) + " %"});
  Table top({"agreement", ""});
  top.add(
      {"same top token", with_error({100 * r.same_top.value, 100 * r.same_top.error}, 3) + " %"});
  top.add({"common in the best five", percent(r.top5_overlap)});
  top.add({"mean rank of the base's best", fmt::format("{:.3f}", r.mean_rank)});
  return perplexity.html() + spread.html() + top.html();
}

std::string histogram_plot(const KldReport& report) {
  BarPlot plot{
      "KL divergence of positions", "KLD in nats, half a decade a bar", "positions", {}, {}};
  for (size_t i = 0; i < report.histogram.size(); ++i) {
    const HistogramBin& bin = report.histogram[i];
    plot.labels.push_back(i % 4 == 0 ? fmt::format("{:.0e}", bin.begin) : "");
    plot.values.push_back(static_cast<double>(bin.count));
  }
  return svg_bars(plot);
}

std::string running_plot(const KldReport& report) {
  LinePlot plot{"Running mean", "sequences", "KLD", AxisScale::linear, {}, {{"mean KLD", {}}}};
  for (const RunningValue& value : report.running) {
    plot.x.push_back(value.sequence + 1);
    plot.series[0].values.push_back(value.mean_kld);
  }
  return svg_lines(plot);
}

std::string layer_plots(const KldResult& result) {
  if (result.layers.empty()) return "";
  LinePlot hidden{
      "Hidden state after each layer", "layer", "relative RMS error",
      AxisScale::logarithmic,          {},      {{"relative RMS error", {}}, {"1 - cosine", {}}}};
  LinePlot routing{"Expert routing",  "layer", "share of rows",
                   AxisScale::linear, {},      {{"same set", {}}, {"overlap", {}}}};
  for (size_t i = 0; i < result.layers.size(); ++i) {
    hidden.x.push_back(static_cast<double>(i));
    hidden.series[0].values.push_back(result.layers[i].relative_rms());
    hidden.series[1].values.push_back(1 - result.layers[i].cosine());
    if (result.routing.empty()) continue;
    routing.x.push_back(static_cast<double>(i));
    routing.series[0].values.push_back(result.routing[i].same_set().value);
    routing.series[1].values.push_back(result.routing[i].overlap());
  }
  return svg_lines(hidden) + (result.routing.empty() ? "" : svg_lines(routing));
}

std::string split_plots(const KldReport& report) {
  std::string out;
  for (const KldSplit& split : report.splits) {
    BarPlot plot{"Mean KLD by " + split.name, split.name, "KLD", {}, {}};
    for (const KldPart& part : split.parts) {
      plot.labels.push_back(part.label);
      plot.values.push_back(part.mean_kld);
    }
    if (!plot.values.empty()) out += svg_bars(plot);
  }
  return out;
}

std::string split_tables(const KldReport& report) {
  std::string out;
  for (const KldSplit& split : report.splits) {
    Table table({"by " + split.name, "tokens", "mean KLD", "99 % KLD", "same top"});
    for (const KldPart& part : split.parts) {
      table.add({part.label, std::to_string(part.tokens), fmt::format("{:.6f}", part.mean_kld),
                 fmt::format("{:.5f}", part.kld_99), percent(part.same_top)});
    }
    out += table.html();
  }
  return out;
}

std::string layer_table(const KldResult& result) {
  if (result.layers.empty()) return "";
  Table table({"layer", "cosine", "relative RMS", "same experts", "overlap", "router KLD"});
  for (size_t i = 0; i < result.layers.size(); ++i) {
    const HiddenError& layer = result.layers[i];
    Cells cells = {std::to_string(i),
                   fmt::format("{:.7f}", layer.cosine()),
                   fmt::format("{:.5f}", layer.relative_rms()),
                   "",
                   "",
                   ""};
    if (!result.routing.empty()) {
      const RoutingAgreement& routing = result.routing[i];
      cells[3] = percent(routing.same_set().value);
      cells[4] = percent(routing.overlap());
      cells[5] = fmt::format("{:.3e}", routing.kld().value);
    }
    table.add(cells);
  }
  return "<h2>Layer by layer</h2>\n<p class=\"soft\">Each model with hidden states of its own run; "
         "all "
         "rows, scored or not.</p>\n" +
         table.html();
}

std::string noise_table(const KldResult& result) {
  if (result.noise.empty()) return "<p class=\"soft\">The noise floor was not measured.</p>\n";
  Table table({"base against base", "tokens", "mean KLD", "maximum", "same top"});
  for (const NoiseFloor& floor : result.noise) {
    table.add({floor.name, std::to_string(floor.tokens), fmt::format("{:.3e}", floor.kld.value),
               fmt::format("{:.3e}", floor.largest), percent(floor.same_top, 3)});
  }
  return table.html();
}

std::string worst_table(const KldResult& result) {
  std::string out =
      "<table>\n<tr><th>KLD</th><th>P(true)</th><th>Q(true)</th><th>text, the true "
      "token marked</th><th>base says</th><th>model says</th></tr>\n";
  const auto shown = [](const std::string& text) {
    return escape_html(replace_invalid_utf8(text));
  };
  for (const WorstPosition& worst : result.worst) {
    const PositionRecord& r = worst.record;
    fmt::format_to(std::back_inserter(out),
                   "<tr><td>{:.4f}</td><td>{:.4f}</td><td>{:.4f}</td><td class=\"text\">{}<mark>{}"
                   "</mark>{}</td><td class=\"text\">{}</td><td class=\"text\">{}</td></tr>\n",
                   r.kld, r.base_probability(), r.probability(), shown(worst.before),
                   shown(worst.token), shown(worst.after), shown(worst.base_top), shown(worst.top));
  }
  return out + "</table>\n";
}

}  // namespace

std::string html_report(const KldResult& result) {
  std::string out = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta "
      "name=\"viewport\" content=\"width=device-width\">\n<title>KL divergence of "
      "{}</title>\n<style>{}</style>\n</head>\n<body>\n<h1>{} against {}</h1>\n",
      escape_html(result.model), kStyle, escape_html(result.model), escape_html(result.base));
  fmt::format_to(std::back_inserter(out),
                 "<p class=\"soft\">{}; {} tokens scored.<br>base: {}<br>model: {}</p>\n",
                 escape_html(result.text), result.report.tokens, escape_html(result.base_run),
                 escape_html(result.model_run));
  for (const std::string& remark : result.remarks) {
    out += "<p>" + escape_html(remark) + "</p>\n";
  }
  out += headline(result);
  out += "<h2>Plots</h2>\n<div class=\"plots\">\n" + histogram_plot(result.report) +
         running_plot(result.report) + layer_plots(result) + split_plots(result.report) +
         "</div>\n";
  out += "<h2>Figures</h2>\n" + statistics(result.report);
  out += "<h2>Noise floor</h2>\n" + noise_table(result);
  out += layer_table(result);
  out += "<h2>Splits</h2>\n" + split_tables(result.report);
  out +=
      fmt::format("<h2>The {} worst positions</h2>\n", result.worst.size()) + worst_table(result);
  return out + "</body>\n</html>\n";
}

}  // namespace nibble::eval
