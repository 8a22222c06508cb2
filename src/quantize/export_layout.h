// ExportLayout: every tensor of the checkpoint to be written, in the order it is written, cut into
// the units a run proceeds by.
//
// First what lies outside the layers and is copied, then each layer, then the head (empty unless it
// is quantized). That order fixes the shards, so that they are finished one after the other.
#pragma once

#include "formats/checkpoint.h"
#include "formats/safetensors_writer.h"
#include "model/checkpoint_source.h"
#include "quantize/format_plan.h"

#include <array>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace nibble::quantize {

/// The matrices of a routed expert, and of the shared one, in the order of model::ExpertWeights.
inline constexpr std::array kExpertMembers = {model::Member::expert_gate, model::Member::expert_up,
                                              model::Member::expert_down};
inline constexpr std::array kSharedMembers = {model::Member::shared_gate, model::Member::shared_up,
                                              model::Member::shared_down};
/// Where KV scales are written: after these members' stems.
inline constexpr std::array kKvScales = {std::pair(model::Member::k_proj, ".k_scale"),
                                         std::pair(model::Member::v_proj, ".v_scale")};

struct ExportUnit {
  int layer = -1;  // kOutsideLayers: copies, or the head
  std::vector<std::string> copies;  // of the source
  bool is_head = false;
  size_t end = 0;  // of its tensors in ExportLayout::tensors; they begin where the last unit's end
};

struct ExportLayout {
  std::vector<formats::TensorSpec> tensors;
  std::vector<ExportUnit> units;
  int64_t quantized_weights = 0;  // elements of quantized matrices
  int64_t quantized_bytes = 0;  // their codes, scales and scalars
  int64_t all_weights = 0;  // elements of all tensors of the source

  static ExportLayout make(const model::CheckpointSource& source,
                           const formats::Checkpoint& checkpoint, const FormatPlan& plan);

  /// Names of the tensors of the first `units_done` units.
  std::set<std::string, std::less<>> written(int64_t units_done) const;
};

/// Type a copied tensor is written in: ModelOpt holds a model in BF16, so F32 comes out rounded;
/// the draft layer is copied as it is.
DType exported_dtype(const formats::TensorInfo& tensor);

}  // namespace nibble::quantize
