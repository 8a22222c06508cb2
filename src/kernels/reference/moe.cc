// Expert products in double; see moe.h.
#include "kernels/reference/moe.h"

#include <cmath>

namespace nibble::reference {
namespace {

std::vector<double> row_of(const std::vector<double>& x, int64_t row, int64_t width) {
  const auto begin = x.begin() + row * width;
  return {begin, begin + width};
}

}  // namespace

GateUp gate_up(const std::vector<double>& x, int64_t rows, const std::vector<Expert>& bank,
               const std::vector<int32_t>& experts) {
  const auto slots = static_cast<int64_t>(experts.size());
  const int64_t width = static_cast<int64_t>(x.size()) / rows;
  GateUp out;
  for (int64_t slot = 0; slot < slots; ++slot) {
    const Expert& expert = bank[static_cast<size_t>(experts[static_cast<size_t>(slot)])];
    const std::vector<double> row = row_of(x, slot / (slots / rows), width);
    const std::vector<Sum> gate = linear(row, 1, expert.gate);
    const std::vector<Sum> up = linear(row, 1, expert.up);
    out.gate.insert(out.gate.end(), gate.begin(), gate.end());
    out.up.insert(out.up.end(), up.begin(), up.end());
  }
  return out;
}

std::vector<Sum> down_combine(const std::vector<double>& act, int64_t rows,
                              const std::vector<Expert>& bank, const std::vector<int32_t>& experts,
                              const std::vector<float>& weights) {
  const auto slots = static_cast<int64_t>(experts.size());
  const int64_t width = static_cast<int64_t>(act.size()) / slots;
  const auto hidden = static_cast<size_t>(bank[0].down.n);
  std::vector<Sum> out(static_cast<size_t>(rows) * hidden);
  for (int64_t slot = 0; slot < slots; ++slot) {
    const Expert& expert = bank[static_cast<size_t>(experts[static_cast<size_t>(slot)])];
    const std::vector<Sum> down = linear(row_of(act, slot, width), 1, expert.down);
    const double weight = double{weights[static_cast<size_t>(slot)]};
    Sum* row = out.data() + static_cast<size_t>(slot / (slots / rows)) * hidden;
    for (size_t i = 0; i < hidden; ++i) {
      row[i].value += weight * down[i].value;
      row[i].magnitude += std::fabs(weight) * down[i].magnitude;
    }
  }
  return out;
}

}  // namespace nibble::reference
