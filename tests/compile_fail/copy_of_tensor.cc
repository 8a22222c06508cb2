// A tensor owns its bytes: it moves and never copies.
#include "tensor/tensor.h"

#include <utility>

nibble::Tensor take(nibble::Tensor& source) {
#ifdef NIBBLE_TWIN
  nibble::Tensor taken(std::move(source));
#else
  nibble::Tensor taken(source);
#endif
  return taken;
}
