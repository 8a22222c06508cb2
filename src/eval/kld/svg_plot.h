// Small SVG plots, drawn as text: no script, no font, no link, so a report opens anywhere.
//
// Colours come from the page's CSS variables (--ink, --soft, --line, --bar, --accent); numbers are
// printed with fixed digits, so equal data give equal bytes.
#pragma once

#include <string>
#include <vector>

namespace nibble::eval {

enum class AxisScale { linear, logarithmic };

struct PlotSeries {
  std::string name;
  std::vector<double> values;  // one per x
};

struct LinePlot {
  std::string title;
  std::string x_label, y_label;
  AxisScale y_scale = AxisScale::linear;
  std::vector<double> x;  // ascending; shared by all series, at least one
  std::vector<PlotSeries> series;
};

/// Values that a logarithmic axis cannot show (0 and below) are left out of the line.
std::string svg_lines(const LinePlot& plot);

struct BarPlot {
  std::string title;
  std::string x_label, y_label;
  std::vector<std::string> labels;  // one per bar, at least one; "" prints none
  std::vector<double> values;  // >= 0
};

std::string svg_bars(const BarPlot& plot);

}  // namespace nibble::eval
