// A view of a temporary tensor would dangle: Tensor::view() of an rvalue is deleted.
#include "tensor/tensor.h"

int64_t rows() {
#ifdef NIBBLE_TWIN
  nibble::Tensor tensor(nibble::DType::f32, {2, 3});
  const nibble::TensorView view = tensor.view();
#else
  const nibble::TensorView view = nibble::Tensor(nibble::DType::f32, {2, 3}).view();
#endif
  return view.rows();
}
