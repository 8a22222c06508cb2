// The quantization operations of every device: rows spread over the host threads, arithmetic from
// formats/.
//
// A row is a task's smallest unit and no result depends on which thread ran it.
#include "device/device.h"
#include "formats/bf16.h"
#include "formats/fp8_encode.h"
#include "formats/nvfp4_encode.h"
#include "formats/nvfp4_search.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace nibble::device {
namespace {

constexpr int64_t kRowsPerTask = 16;
constexpr size_t kErrorChains = 8;

// Element i of a row of BF16 bits. Files do not promise alignment.
uint16_t bits_at(const std::byte* row, size_t i) {
  uint16_t bits = 0;
  std::memcpy(&bits, row + 2 * i, sizeof bits);
  return bits;
}

const std::byte* row_bytes(ConstTensorView matrix, int64_t row) {
  NIBBLE_CHECK(matrix.dtype() == DType::bf16, "quantized matrices are BF16",
               dtype_name(matrix.dtype()));
  return matrix.data() + row * matrix.row_elements() * 2;
}

int64_t tasks_of(ConstTensorView matrix) {
  return (matrix.rows() + kRowsPerTask - 1) / kRowsPerTask;
}

// Runs body(task, row index, widened row) for every row, rows of one task in order.
template <typename Body>
void for_rows(Device& device, ConstTensorView matrix, const Body& body) {
  device.host_tasks(tasks_of(matrix), [&](int64_t task, int) {
    std::vector<float> row(static_cast<size_t>(matrix.row_elements()));
    const int64_t end = std::min(matrix.rows(), (task + 1) * kRowsPerTask);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) {
      const std::byte* bytes = row_bytes(matrix, r);
      for (size_t i = 0; i < row.size(); ++i) row[i] = formats::bf16_to_f32(bits_at(bytes, i));
      body(task, r, row);
    }
  });
}

int64_t block_columns(ConstTensorView matrix) {
  const int64_t columns = matrix.row_elements();
  NIBBLE_CHECK(columns % 16 == 0, "matrix to quantize", to_string(matrix.shape()));
  return columns;
}

}  // namespace

void Device::host_tasks(int64_t count, TaskRef task) {
  for (int64_t i = 0; i < count; ++i) task(i, 0);
}

// Magnitudes order like their bits, NaN above all.
float Device::max_magnitude(ConstTensorView matrix) {
  std::vector<int16_t> partial(static_cast<size_t>(tasks_of(matrix)), 0);
  host_tasks(tasks_of(matrix), [&](int64_t task, int) {
    const int64_t first = task * kRowsPerTask;
    const int64_t rows = std::min(matrix.rows() - first, kRowsPerTask);
    const auto count = static_cast<size_t>(rows * matrix.row_elements());
    const std::byte* bytes = row_bytes(matrix, first);
    int16_t largest = 0;
    for (size_t i = 0; i < count; ++i) {
      const auto magnitude = static_cast<int16_t>(bits_at(bytes, i) & 0x7FFF);
      largest = magnitude > largest ? magnitude : largest;
    }
    partial[static_cast<size_t>(task)] = largest;
  });
  int16_t largest = 0;
  for (const int16_t found : partial) largest = std::max(largest, found);
  return formats::bf16_to_f32(static_cast<uint16_t>(largest));
}

void Device::quantize_nvfp4(ConstTensorView matrix, float tensor_scale,
                            const formats::Nvfp4Rules& rules, uint8_t* codes,
                            uint8_t* block_scales) {
  const int64_t columns = block_columns(matrix);
  for_rows(*this, matrix, [&](int64_t, int64_t r, const std::vector<float>& row) {
    formats::encode_nvfp4_row(row, tensor_scale, rules, codes + r * columns / 2,
                              block_scales + r * columns / 16);
  });
}

void Device::search_nvfp4_scales(ConstTensorView matrix, const formats::ScaleSearch& search,
                                 uint8_t* block_scales) {
  const int64_t columns = block_columns(matrix);
  for_rows(*this, matrix, [&](int64_t, int64_t r, const std::vector<float>& row) {
    search_row(row, search, block_scales + r * columns / 16);
  });
}

void Device::search_row(std::span<const float> row, const formats::ScaleSearch& search,
                        uint8_t* block_scales) const {
  formats::search_nvfp4_scales(row, search, block_scales);
}

void Device::encode_nvfp4(ConstTensorView matrix, float tensor_scale, const uint8_t* block_scales,
                          uint8_t* codes) {
  const int64_t columns = block_columns(matrix);
  for_rows(*this, matrix, [&](int64_t, int64_t r, const std::vector<float>& row) {
    formats::encode_nvfp4_codes(row, tensor_scale, block_scales + r * columns / 16,
                                codes + r * columns / 2);
  });
}

void Device::quantize_fp8(ConstTensorView matrix, float weight_scale,
                          formats::ScalarDivision division, uint8_t* codes) {
  const int64_t columns = matrix.row_elements();
  for_rows(*this, matrix, [&](int64_t, int64_t r, const std::vector<float>& row) {
    formats::fp8_encode_row(row, weight_scale, division, codes + r * columns);
  });
}

WeightError Device::weight_error(ConstTensorView matrix, const formats::LinearWeight& stored) {
  NIBBLE_CHECK(matrix.shape() == Shape({stored.out_features, stored.in_features}),
               "matrix and stored weight", to_string(matrix.shape()));
  std::vector<WeightError> partial(static_cast<size_t>(tasks_of(matrix)));
  for_rows(*this, matrix, [&](int64_t task, int64_t r, const std::vector<float>& row) {
    std::vector<float> decoded(row.size());
    formats::decode_row_f32(stored, r, decoded.data());
    // Several chains, so that an addition does not wait for the one before; their number is fixed.
    std::array<WeightError, kErrorChains> chains;
    for (size_t i = 0; i < row.size(); ++i) {
      WeightError& sums = chains[i % kErrorChains];
      const double weight = row[i];
      const double difference = weight - static_cast<double>(decoded[i]);
      sums.difference += difference * difference;
      sums.magnitude += weight * weight;
    }
    for (const WeightError& sums : chains) {
      partial[static_cast<size_t>(task)].difference += sums.difference;
      partial[static_cast<size_t>(task)].magnitude += sums.magnitude;
    }
  });
  WeightError out;
  for (const WeightError& sums : partial) {
    out.difference += sums.difference;
    out.magnitude += sums.magnitude;
  }
  return out;
}

}  // namespace nibble::device
