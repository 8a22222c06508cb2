// The embed operations of the avx2 level.
#include "kernels/cpu/embed/embed.h"

#include <immintrin.h>

namespace nibble::cpu::avx2 {
namespace {

// Each builds on the one before.
// clang-format off
#include "kernels/cpu/common/vec_avx2.inl"
#include "kernels/cpu/common/vec.inl"
#include "kernels/cpu/embed/embed.inl"
// clang-format on

}  // namespace

const EmbedKernels kEmbedKernels = {embed};

}  // namespace nibble::cpu::avx2
