// The tables of operation_table.h, one row per ISA level.
#include "kernels/cpu/operation_table.h"

#include "base/check.h"

#include <iterator>

namespace nibble::cpu {
namespace {

constexpr OperationKernels kTables[] = {
    {"scalar", scalar::kAttentionKernels, scalar::kConvKernels, scalar::kDeltaKernels,
     scalar::kElementwiseKernels, scalar::kEmbedKernels, scalar::kFeedbackKernels,
     scalar::kNormKernels, scalar::kRopeKernels, scalar::kRouteKernels,
     scalar::kScaleSearchKernels},
    {"avx2", avx2::kAttentionKernels, avx2::kConvKernels, avx2::kDeltaKernels,
     avx2::kElementwiseKernels, avx2::kEmbedKernels, avx2::kFeedbackKernels, avx2::kNormKernels,
     avx2::kRopeKernels, avx2::kRouteKernels, avx2::kScaleSearchKernels},
    {"avx512", avx512::kAttentionKernels, avx512::kConvKernels, avx512::kDeltaKernels,
     avx512::kElementwiseKernels, avx512::kEmbedKernels, avx512::kFeedbackKernels,
     avx512::kNormKernels, avx512::kRopeKernels, avx512::kRouteKernels,
     avx512::kScaleSearchKernels},
    {"avx512_dot", avx512::kAttentionKernels, avx512::kConvKernels, avx512::kDeltaKernels,
     avx512::kElementwiseKernels, avx512::kEmbedKernels, avx512::kFeedbackKernels,
     avx512::kNormKernels, avx512::kRopeKernels, avx512::kRouteKernels,
     avx512::kScaleSearchKernels},
};

}  // namespace

const OperationKernels& operation_kernels(int isa_level) {
  NIBBLE_CHECK(isa_level >= 0 && isa_level < static_cast<int>(std::size(kTables)), "ISA level",
               isa_level);
  return kTables[isa_level];
}

}  // namespace nibble::cpu
