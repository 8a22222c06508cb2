// Words that dense linear layers and expert products share about packed weights.
//
// Plain enums and constants, because files compiled for one ISA level include this header. The
// layout itself: linear/packed_weights.h.
#pragma once

#include <cstdint>

namespace nibble::cpu {

constexpr int64_t kPanelRows = 16;  // output rows of one panel: one lane each
constexpr int64_t kBlockK = 16;  // K is padded to a multiple of this with zeros

enum class PanelFormat : int32_t { bf16, fp8, nvfp4 };
constexpr int kPanelFormats = 3;

/// exact: x is BF16; codes (times block scales) are multiplied exactly, summed in f32, and
/// tensor_scale multiplies the sum. f32: x is f32; weights are decoded to f32 as
/// formats/nvfp4.h and fp8.h say, tensor_scale included, and summed in f32.
enum class LinearArithmetic : int32_t { exact, f32 };

}  // namespace nibble::cpu
