// Random matrices and buffers in the memory of the device that is checked.
#pragma once

#include "base/rng.h"
#include "device/device.h"
#include "formats/linear_weight.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace nibble::selftest {

/// A stored matrix with bytes of its own.
struct OwnedWeight {
  std::vector<uint8_t> codes, scales;
  formats::LinearWeight view;
};

/// any: codes and block scales of every magnitude. unit: the rows of x W^T are about as large as x.
enum class Magnitude { any, unit };

OwnedWeight random_weight(formats::WeightFormat format, int64_t n, int64_t k, Magnitude magnitude,
                          Rng& rng);

/// Uniform in (-scale, scale), rounded to BF16.
std::vector<float> random_values(int64_t count, float scale, Rng& rng);

/// Device memory that lives as long as the object.
class Buffers {
 public:
  explicit Buffers(device::Device& device) : device_(device) {}

  std::byte* take(size_t bytes);
  template <typename T>
  T* put(const std::vector<T>& values) {
    std::byte* at = take(values.size() * sizeof(T));
    device_.upload(at, std::as_bytes(std::span(values)));
    return reinterpret_cast<T*>(at);
  }
  TensorView tensor(DType dtype, Shape shape);
  /// f32 or bf16; the values are rounded.
  TensorView tensor(DType dtype, Shape shape, const std::vector<float>& values);
  /// A packed matrix; `at` null: in a buffer of its own.
  device::PackedLinear pack(const OwnedWeight& weight, std::byte* at = nullptr);
  /// f32, bf16, f8_e4m3 (codes' values) or i32, as f32.
  std::vector<float> get(ConstTensorView view);

 private:
  device::Device& device_;
  std::vector<std::unique_ptr<device::Memory>> owned_;
};

}  // namespace nibble::selftest
