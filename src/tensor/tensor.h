// An owned host tensor: one 64-byte aligned allocation, zeroed. Move-only.
#pragma once

#include "tensor/tensor_view.h"

#include <cstddef>
#include <memory>

namespace nibble {

/// 64-byte aligned zeroed bytes, freed on destruction.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(size_t size);

  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(std::byte* bytes) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t size_ = 0;
};

class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, Shape shape);

  TensorView view() & { return {bytes_.data(), dtype_, shape_}; }
  ConstTensorView view() const& { return {bytes_.data(), dtype_, shape_}; }
  TensorView view() && = delete;  // a view of a temporary would dangle
  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }

 private:
  AlignedBytes bytes_;
  DType dtype_ = DType::f32;
  Shape shape_;
};

}  // namespace nibble
