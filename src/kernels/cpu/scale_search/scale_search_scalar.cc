// The scale search of the scalar level.
#include "kernels/cpu/scale_search/scale_search.h"

namespace nibble::cpu::scalar {
namespace {

#include "kernels/cpu/scale_search/scale_search.inl"

}  // namespace

const ScaleSearchKernels kScaleSearchKernels = {best_scales};

}  // namespace nibble::cpu::scalar
