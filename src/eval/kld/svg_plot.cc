#include "eval/kld/svg_plot.h"

#include "base/check.h"
#include "base/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <utility>

namespace nibble::eval {
namespace {

constexpr double kWidth = 640, kHeight = 280;
constexpr double kLeft = 70, kRight = 16, kTop = 34, kBottom = 46;
constexpr const char* kSeriesClasses[] = {"s0", "s1", "s2", "s3"};

// A range of data laid over a range of pixels.
class Axis {
 public:
  Axis(AxisScale scale, double low, double high, double from, double to)
      : scale_(scale), low_(map(low)), high_(map(high)), from_(from), to_(to) {
    if (!(high_ > low_)) high_ = low_ + 1;
  }
  double at(double value) const {
    return from_ + (map(value) - low_) / (high_ - low_) * (to_ - from_);
  }

  /// Round values inside the range.
  std::vector<double> ticks() const {
    std::vector<double> out;
    if (scale_ == AxisScale::logarithmic) {
      const auto step = std::max(1.0, std::ceil((high_ - low_) / 6));
      for (double e = std::ceil(low_ - 1e-9); e <= high_ + 1e-9; e += step) {
        out.push_back(std::pow(10.0, e));
      }
      return out;
    }
    const double raw = (high_ - low_) / 5;
    const double power = std::pow(10.0, std::floor(std::log10(raw)));
    const double factor = raw / power > 5 ? 10 : raw / power > 2 ? 5 : raw / power > 1 ? 2 : 1;
    const double step = factor * power;
    for (double k = std::ceil(low_ / step - 1e-9); k * step <= high_ + step * 1e-9; ++k) {
      out.push_back(k * step + 0.0);  // -0 becomes 0
    }
    return out;
  }

 private:
  double map(double value) const {
    return scale_ == AxisScale::logarithmic ? std::log10(value) : value;
  }
  AxisScale scale_;
  double low_, high_, from_, to_;
};

std::string open_plot(const std::string& title, const std::string& x_label,
                      const std::string& y_label) {
  return fmt::format(
      "<svg viewBox=\"0 0 {0:g} {1:g}\" role=\"img\" aria-label=\"{2}\">\n"
      "<text class=\"t\" x=\"{3:g}\" y=\"18\">{2}</text>\n"
      "<text class=\"l\" x=\"{4:g}\" y=\"{5:g}\" text-anchor=\"middle\">{6}</text>\n"
      "<text class=\"l\" x=\"14\" y=\"{7:g}\" text-anchor=\"middle\" transform=\"rotate(-90 14 "
      "{7:g})\">{8}</text>\n",
      kWidth, kHeight, escape_html(title), kLeft, (kLeft + kWidth - kRight) / 2, kHeight - 8,
      escape_html(x_label), (kTop + kHeight - kBottom) / 2, escape_html(y_label));
}

void draw_y_axis(const Axis& axis, std::string& out) {
  for (const double tick : axis.ticks()) {
    const double y = axis.at(tick);
    fmt::format_to(std::back_inserter(out),
                   "<line class=\"g\" x1=\"{:g}\" x2=\"{:g}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
                   "<text class=\"l\" x=\"{:g}\" y=\"{:.1f}\" text-anchor=\"end\">{:.4g}</text>\n",
                   kLeft, kWidth - kRight, y, y, kLeft - 6, y + 4, tick);
  }
}

bool can_show(AxisScale scale, double value) {
  return std::isfinite(value) && (scale == AxisScale::linear || value > 0);
}

// Lowest and highest value that the axis can show.
std::optional<std::pair<double, double>> range_of(const LinePlot& plot) {
  std::optional<std::pair<double, double>> range;
  for (const PlotSeries& series : plot.series) {
    for (const double value : series.values) {
      if (!can_show(plot.y_scale, value)) continue;
      if (!range) range = {value, value};
      range = {std::min(range->first, value), std::max(range->second, value)};
    }
  }
  return range;
}

std::string x_ticks(const Axis& axis, const std::vector<double>& x) {
  std::string out;
  for (const double tick : axis.ticks()) {
    if (tick < x.front() || tick > x.back() || tick != std::floor(tick)) continue;
    fmt::format_to(std::back_inserter(out),
                   "<text class=\"l\" x=\"{:.1f}\" y=\"{:g}\" text-anchor=\"middle\">{:g}</text>\n",
                   axis.at(tick), kHeight - kBottom + 16, tick);
  }
  return out;
}

}  // namespace

std::string svg_lines(const LinePlot& plot) {
  NIBBLE_CHECK(!plot.x.empty() && plot.series.size() <= std::size(kSeriesClasses), "plot",
               plot.x.size(), plot.series.size());
  std::string out = open_plot(plot.title, plot.x_label, plot.y_label);
  const auto range = range_of(plot);
  if (!range) return out + "</svg>\n";
  auto [low, high] = *range;
  if (plot.y_scale == AxisScale::logarithmic) {
    low = std::pow(10.0, std::floor(std::log10(low)));
    high = std::pow(10.0, std::ceil(std::log10(high)));
  } else if (low > 0 && low < high / 2) {
    low = 0;
  }
  const Axis x(AxisScale::linear, plot.x.front(), plot.x.back(), kLeft, kWidth - kRight);
  const Axis y(plot.y_scale, low, high, kHeight - kBottom, kTop);
  draw_y_axis(y, out);
  out += x_ticks(x, plot.x);
  for (size_t s = 0; s < plot.series.size(); ++s) {
    const PlotSeries& series = plot.series[s];
    std::string points;
    std::string dots;
    for (size_t i = 0; i < plot.x.size(); ++i) {
      if (!can_show(plot.y_scale, series.values[i])) continue;
      const double px = x.at(plot.x[i]), py = y.at(series.values[i]);
      fmt::format_to(std::back_inserter(points), "{:.1f},{:.1f} ", px, py);
      if (plot.x.size() > 64) continue;
      fmt::format_to(std::back_inserter(dots),
                     "<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"><title>{}: "
                     "{:.5g}</title></circle>",
                     kSeriesClasses[s], px, py, escape_html(series.name), series.values[i]);
    }
    fmt::format_to(std::back_inserter(out),
                   "<polyline class=\"{}\" points=\"{}\"/>\n{}\n<text class=\"n {}\" x=\"{:g}\" "
                   "y=\"{:g}\" text-anchor=\"end\">{}</text>\n",
                   kSeriesClasses[s], points, dots, kSeriesClasses[s], kWidth - kRight,
                   18 + 14 * static_cast<double>(s), escape_html(series.name));
  }
  return out + "</svg>\n";
}

std::string svg_bars(const BarPlot& plot) {
  NIBBLE_CHECK(!plot.values.empty() && plot.values.size() == plot.labels.size(), "plot",
               plot.values.size(), plot.labels.size());
  std::string out = open_plot(plot.title, plot.x_label, plot.y_label);
  const double high = *std::max_element(plot.values.begin(), plot.values.end());
  const Axis y(AxisScale::linear, 0, high > 0 ? high : 1, kHeight - kBottom, kTop);
  draw_y_axis(y, out);
  const double pitch = (kWidth - kLeft - kRight) / static_cast<double>(plot.values.size());
  for (size_t i = 0; i < plot.values.size(); ++i) {
    const double x = kLeft + pitch * static_cast<double>(i);
    const double top = y.at(plot.values[i]);
    fmt::format_to(std::back_inserter(out),
                   "<rect class=\"b\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" "
                   "height=\"{:.1f}\"><title>{}: {:.6g}</title></rect>",
                   x + pitch * 0.08, top, pitch * 0.84, kHeight - kBottom - top,
                   escape_html(plot.labels[i]), plot.values[i]);
    if (plot.labels[i].empty()) continue;
    fmt::format_to(std::back_inserter(out),
                   "<text class=\"l\" x=\"{:.1f}\" y=\"{:g}\" text-anchor=\"middle\">{}</text>\n",
                   x + pitch / 2, kHeight - kBottom + 16, escape_html(plot.labels[i]));
  }
  return out + "</svg>\n";
}

}  // namespace nibble::eval
