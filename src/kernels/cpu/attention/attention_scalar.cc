// The attention operations of the scalar level.
#include "kernels/cpu/attention/attention.h"

#include <immintrin.h>

namespace nibble::cpu::scalar {
namespace {

// Each builds on the one before.
// clang-format off
#include "kernels/cpu/common/vec_scalar.inl"
#include "kernels/cpu/common/vec.inl"
#include "kernels/cpu/common/math.inl"
#include "kernels/cpu/common/tile_gemm.inl"
#include "kernels/cpu/attention/kv_store.inl"
#include "kernels/cpu/attention/unpack.inl"
#include "kernels/cpu/attention/unpack_keys.inl"
#include "kernels/cpu/attention/attention.inl"
// clang-format on

}  // namespace

const AttentionKernels kAttentionKernels = {kv_store, attention};

}  // namespace nibble::cpu::scalar
