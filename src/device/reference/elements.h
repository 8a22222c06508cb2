// Elements of the reference device's buffers: read as double, written in the buffer's type.
#pragma once

#include "formats/bf16.h"
#include "formats/e4m3.h"
#include "tensor/tensor_view.h"

#include <cstdint>
#include <vector>

namespace nibble::device {

/// f32, f8_e4m3 (codes' values) or bf16.
inline double element(ConstTensorView view, int64_t index) {
  if (view.dtype() == DType::f32) return view.as<float>()[index];
  if (view.dtype() == DType::f8_e4m3) return formats::e4m3_to_f32(view.as<uint8_t>()[index]);
  return formats::bf16_to_f32(view.as<uint16_t>()[index]);
}

/// Rounds to nearest even; f8_e4m3 saturates.
inline void store(TensorView view, int64_t index, double value) {
  const auto rounded = static_cast<float>(value);
  if (view.dtype() == DType::f32) {
    view.as<float>()[index] = rounded;
  } else if (view.dtype() == DType::f8_e4m3) {
    view.as<uint8_t>()[index] = formats::e4m3_from_f32_saturating(rounded);
  } else {
    view.as<uint16_t>()[index] = formats::bf16_from_f32(rounded);
  }
}

inline void store_row(TensorView view, int64_t row, const std::vector<double>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    store(view, row * view.row_elements() + static_cast<int64_t>(i), values[i]);
  }
}

}  // namespace nibble::device
