// Embedding rows: table lookup with row overrides. Argument struct and kernel tables.
//
// Token ids are valid here: the engine checked them.
#pragma once

#include "kernels/cpu/common/element.h"

#include <cstdint>

namespace nibble::cpu {

/// out[r] = override_index && override_index[r] >= 0 ? overrides[override_index[r]]
///                                                   : table[token_ids[r]].
struct EmbedArgs {
  const void* table;  // [vocabulary][n], f32 or bf16
  Element table_type;
  const int32_t* token_ids;  // [rows]
  const int32_t* override_index;  // [rows] or null
  const void* overrides;  // [.][n], f32 or bf16
  Element override_type;
  float* out;  // [rows][n]
  int64_t n;
};

/// Rows [first, last); any number of threads on disjoint rows.
struct EmbedKernels {
  void (*embed)(const EmbedArgs& args, int64_t first, int64_t last) noexcept;
};

namespace scalar {
extern const EmbedKernels kEmbedKernels;
}
namespace avx2 {
extern const EmbedKernels kEmbedKernels;
}
namespace avx512 {
extern const EmbedKernels kEmbedKernels;
}

}  // namespace nibble::cpu
