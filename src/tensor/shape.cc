#include "tensor/shape.h"

namespace nibble {

std::string to_string(const Shape& shape) {
  std::string out = "[";
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (axis > 0) out += ',';
    out += std::to_string(shape[axis]);
  }
  return out + "]";
}

}  // namespace nibble
