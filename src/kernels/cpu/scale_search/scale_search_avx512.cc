// The scale search of the avx512 level.
#include "kernels/cpu/scale_search/scale_search.h"

namespace nibble::cpu::avx512 {
namespace {

#include "kernels/cpu/scale_search/scale_search.inl"

}  // namespace

const ScaleSearchKernels kScaleSearchKernels = {best_scales};

}  // namespace nibble::cpu::avx512
