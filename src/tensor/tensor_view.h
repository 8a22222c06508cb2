// Views of tensor bytes somebody else owns: pointer, element type, shape. Rows are contiguous.
//
// Trivially copyable, passed by value. The memory may be a device's: only that device's kernels
// dereference it.
#pragma once

#include "base/check.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

#include <cstddef>
#include <cstdint>

namespace nibble {

template <typename Byte>
class BasicTensorView {
 public:
  BasicTensorView() = default;
  BasicTensorView(Byte* data, DType dtype, Shape shape)
      : data_(data), dtype_(dtype), shape_(shape) {}
  /// A mutable view converts to a const one.
  template <typename Other>
  BasicTensorView(const BasicTensorView<Other>& other)  // NOLINT: implicit by design
      : data_(other.data()), dtype_(other.dtype()), shape_(other.shape()) {}

  bool empty() const { return data_ == nullptr; }
  Byte* data() const { return data_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t rows() const { return shape_[0]; }
  /// Elements of one row (of the first axis).
  int64_t row_elements() const { return shape_[0] == 0 ? 0 : shape_.elements() / shape_[0]; }
  size_t bytes() const { return static_cast<size_t>(shape_.elements()) * dtype_bytes(dtype_); }

  /// Typed pointer; the element size must match the dtype.
  template <typename T>
  auto as() const {
    NIBBLE_DCHECK(sizeof(T) == dtype_bytes(dtype_), "element size", sizeof(T), dtype_name(dtype_));
    if constexpr (std::is_const_v<Byte>) {
      return reinterpret_cast<const T*>(data_);
    } else {
      return reinterpret_cast<T*>(data_);
    }
  }

  /// Rows [first, first + count) of the first axis.
  BasicTensorView slice_rows(int64_t first, int64_t count) const {
    NIBBLE_CHECK(first >= 0 && count >= 0 && first + count <= rows(), "row slice", first, count,
                 rows());
    Shape sliced{count};
    for (int axis = 1; axis < shape_.rank(); ++axis) sliced.append(shape_[axis]);
    const auto offset = static_cast<size_t>(first * row_elements()) * dtype_bytes(dtype_);
    return {data_ + offset, dtype_, sliced};
  }

  /// The same bytes seen as another shape with as many elements.
  BasicTensorView reshaped(Shape shape) const {
    NIBBLE_CHECK(shape.elements() == shape_.elements(), "reshape changes the number of elements");
    return {data_, dtype_, shape};
  }

 private:
  Byte* data_ = nullptr;
  DType dtype_ = DType::f32;
  Shape shape_;
};

using TensorView = BasicTensorView<std::byte>;
using ConstTensorView = BasicTensorView<const std::byte>;

}  // namespace nibble
