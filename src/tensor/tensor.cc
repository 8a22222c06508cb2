#include "tensor/tensor.h"

#include <cstdlib>
#include <cstring>

namespace nibble {

AlignedBytes::AlignedBytes(size_t size) : size_(size) {
  const size_t padded = (size + 63) / 64 * 64 + 64;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, padded)));
  NIBBLE_CHECK(data_ != nullptr, "out of memory", size);
  std::memset(data_.get(), 0, padded);
}

void AlignedBytes::Free::operator()(std::byte* bytes) const {
  std::free(bytes);
}

Tensor::Tensor(DType dtype, Shape shape)
    : bytes_(static_cast<size_t>(shape.elements()) * dtype_bytes(dtype)),
      dtype_(dtype),
      shape_(shape) {}

}  // namespace nibble
