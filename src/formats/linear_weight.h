// LinearWeight: one matrix as it is stored in a checkpoint, whatever its number format.
//
// The format is decided by the tensors that are there, never by the configuration: U8 codes with
// weight_scale and weight_scale_2 are NVFP4, F8_E4M3 with a scalar weight_scale is FP8 per tensor,
// else BF16 or F32. compressed-tensors' nvfp4-pack-quantized holds the same bytes under other names
// and the reciprocals of the two scalars (spec nvfp4.md 2.7); behind this file there is no
// difference. Devices repack from here; tests and `inspect` decode rows from here.
#pragma once

#include "base/result.h"
#include "formats/checkpoint.h"
#include "tensor/tensor_view.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace nibble::formats {

enum class WeightFormat { f32, bf16, fp8, nvfp4 };

/// "F32", "BF16", "FP8", "NVFP4".
const char* weight_format_name(WeightFormat format);

/// A matrix [out_features, in_features]. Views only: they live as long as the bytes' owner.
struct LinearWeight {
  WeightFormat format = WeightFormat::bf16;
  int64_t out_features = 0;
  int64_t in_features = 0;
  ConstTensorView weight;  // F32/BF16/F8_E4M3 [out, in]; NVFP4: U8 [out, in/2]
  ConstTensorView weight_scale;  // NVFP4: F8_E4M3 [out, in/16], sign bits to be ignored; else empty
  float weight_scale_2 = 1.0f;  // NVFP4 weight_scale_2, FP8 weight_scale; 1 otherwise
  float input_scale = 0.0f;  // 0 when absent

  /// Bytes of weight and weight_scale.
  size_t bytes() const;
};

/// Whether to read the scale and code bytes in search of NaN, which touches every page of them.
enum class ValueCheck { skip, scan };

/// True for a matrix in compressed-tensors' spelling: weight_packed, weight_global_scale,
/// input_global_scale.
bool is_packed_dialect(const Checkpoint& checkpoint, std::string_view stem);

/// Which format the tensors of `stem` make: looks at names, types and ranks only. Error when
/// `stem`.weight is missing or the combination is none of the four.
Result<WeightFormat> stored_weight_format(const Checkpoint& checkpoint, std::string_view stem);

/// The matrix of `stem` with its scales; scalars as multipliers, fl(1/x) of stored reciprocals.
/// Refuses, all in one message: shapes that do not fit each other, scales that are not finite and
/// positive, with `scan` also NaN block scales (0x7F, 0xFF) and NaN FP8 codes.
Result<LinearWeight> load_linear_weight(const Checkpoint& checkpoint, std::string_view stem,
                                        ValueCheck check = ValueCheck::scan);

/// A BF16 or F32 view [out, in] as a LinearWeight. Other types and ranks abort.
LinearWeight plain_linear_weight(ConstTensorView matrix);

/// The three matrices of one expert of fused banks.
struct FusedExpert {
  LinearWeight gate;  // [I, H]
  LinearWeight up;  // [I, H]
  LinearWeight down;  // [H, I]
};

/// Expert `index` of gate_up_proj [E, 2I, H] (first I rows of each expert: gate) and down_proj
/// [E, H, I], BF16 or F32, shapes checked before by the caller (else abort).
FusedExpert fused_expert(ConstTensorView gate_up_proj, ConstTensorView down_proj, int64_t index);

/// Row `row` in f32: in_features floats. NVFP4 by the exact rule of nvfp4.h. Any thread.
void decode_row_f32(const LinearWeight& weight, int64_t row, float* out);

}  // namespace nibble::formats
