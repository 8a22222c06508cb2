// Expert products in double: the oracle of kernels/cpu/moe.
#pragma once

#include "kernels/reference/linear.h"

#include <cstdint>
#include <vector>

namespace nibble::reference {

/// One expert's matrices: gate and up [I][H], down [H][I].
struct Expert {
  Matrix gate, up, down;
};

/// gate and up sums of each (row, slot): [rows * slots][I]. experts: [rows * slots]; x [rows][H].
struct GateUp {
  std::vector<Sum> gate, up;
};
GateUp gate_up(const std::vector<double>& x, int64_t rows, const std::vector<Expert>& bank,
               const std::vector<int32_t>& experts);

/// [rows][H]: sum over slots of weight * down(act[slot]). act [rows * slots][I]; weights [rows *
/// slots].
std::vector<Sum> down_combine(const std::vector<double>& act, int64_t rows,
                              const std::vector<Expert>& bank, const std::vector<int32_t>& experts,
                              const std::vector<float>& weights);

}  // namespace nibble::reference
