// The kernels of every operation but the matrix products, by ISA level.
//
// Explicit constant tables; nothing registers itself. A level without an own version of a family
// carries the next lower one's. The CPU device keeps a reference to the entry it selected at start.
#pragma once

#include "kernels/cpu/attention/attention.h"
#include "kernels/cpu/conv/short_conv.h"
#include "kernels/cpu/delta/delta.h"
#include "kernels/cpu/elementwise/elementwise.h"
#include "kernels/cpu/embed/embed.h"
#include "kernels/cpu/feedback/feedback.h"
#include "kernels/cpu/norm/norm.h"
#include "kernels/cpu/rope/rope.h"
#include "kernels/cpu/route/route.h"
#include "kernels/cpu/scale_search/scale_search.h"

namespace nibble::cpu {

struct OperationKernels {
  const char* level;
  const AttentionKernels& attention;
  const ConvKernels& conv;
  const DeltaKernels& delta;
  const ElementwiseKernels& elementwise;
  const EmbedKernels& embed;
  const FeedbackKernels& feedback;
  const NormKernels& norm;
  const RopeKernels& rope;
  const RouteKernels& route;
  const ScaleSearchKernels& scale_search;
};

/// Index = IsaLevel (base/cpu_features.h): scalar, avx2, avx512, avx512_dot. Aborts beyond.
const OperationKernels& operation_kernels(int isa_level);

}  // namespace nibble::cpu
