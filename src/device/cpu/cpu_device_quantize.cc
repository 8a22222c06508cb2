// The CPU device's quantization operations: rows on the thread pool, arithmetic from
// formats/nvfp4_encode.
#include "device/cpu/cpu_device_impl.h"
#include "formats/bf16.h"
#include "formats/nvfp4_encode.h"

#include <algorithm>
#include <mutex>

namespace nibble::device {
namespace {

constexpr int64_t kRowsPerTask = 16;

// One row of a BF16 matrix, widened.
void widen_row(ConstTensorView matrix, int64_t row, std::vector<float>& out) {
  const int64_t columns = matrix.row_elements();
  out.resize(static_cast<size_t>(columns));
  const std::byte* data = matrix.data() + row * columns * 2;  // files do not promise alignment
  for (size_t i = 0; i < out.size(); ++i) {
    const auto low = static_cast<uint16_t>(data[2 * i]);
    const auto high = static_cast<uint16_t>(data[2 * i + 1]);
    out[i] = formats::bf16_to_f32(static_cast<uint16_t>(low | (high << 8)));
  }
}

}  // namespace

float CpuDevice::max_magnitude(ConstTensorView matrix) {
  NIBBLE_CHECK(matrix.dtype() == DType::bf16, "quantized matrices are BF16",
               dtype_name(matrix.dtype()));
  std::mutex mutex;
  float largest = 0.0f;
  pool_.parallel_for((matrix.rows() + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    std::vector<float> row;
    float found = 0.0f;
    const int64_t end = std::min(matrix.rows(), (task + 1) * kRowsPerTask);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) {
      widen_row(matrix, r, row);
      found = formats::max_or_nan(found, formats::max_magnitude(row));
    }
    const std::lock_guard<std::mutex> lock(mutex);
    largest = formats::max_or_nan(largest, found);
  });
  return largest;
}

void CpuDevice::quantize_nvfp4(ConstTensorView matrix, float tensor_scale,
                               const formats::Nvfp4Rules& rules, uint8_t* codes,
                               uint8_t* block_scales) {
  const int64_t columns = matrix.row_elements();
  NIBBLE_CHECK(matrix.dtype() == DType::bf16 && columns % 16 == 0, "matrix to quantize",
               to_string(matrix.shape()));
  pool_.parallel_for((matrix.rows() + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    std::vector<float> row;
    const int64_t end = std::min(matrix.rows(), (task + 1) * kRowsPerTask);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) {
      widen_row(matrix, r, row);
      formats::encode_nvfp4_row(row, tensor_scale, rules, codes + r * columns / 2,
                                block_scales + r * columns / 16);
    }
  });
}

}  // namespace nibble::device
