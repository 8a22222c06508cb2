// The scale search of the avx2 level.
#include "kernels/cpu/scale_search/scale_search.h"

namespace nibble::cpu::avx2 {
namespace {

#include "kernels/cpu/scale_search/scale_search.inl"

}  // namespace

const ScaleSearchKernels kScaleSearchKernels = {best_scales};

}  // namespace nibble::cpu::avx2
