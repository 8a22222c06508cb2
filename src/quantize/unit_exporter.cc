#include "quantize/unit_exporter.h"

#include "base/mapped_file.h"
#include "formats/bf16.h"
#include "formats/linear_weight.h"
#include "quantize/finite_check.h"
#include "quantize/quantizer_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace nibble::quantize {
namespace {

using formats::LinearWeight;
using model::ExpertWeights;
using model::Member;

constexpr std::array kHeadMembers = {Member::lm_head};

std::vector<std::byte> rounded_to_bf16(ConstTensorView view) {
  std::vector<std::byte> out(static_cast<size_t>(view.shape().elements()) * 2);
  for (size_t i = 0; 2 * i < out.size(); ++i) {
    float value = 0;
    std::memcpy(&value, view.data() + 4 * i, 4);
    const uint16_t bits = formats::bf16_from_f32(value);
    std::memcpy(out.data() + 2 * i, &bits, 2);
  }
  return out;
}

}  // namespace

void UnitExporter::note_not_finite(const std::string& name, ConstTensorView view) {
  const int64_t count = count_not_finite(view);
  if (count > 0) not_finite_.add(fmt::format("{}: {} of its values are not finite", name, count));
}

// Name of a matrix in the source, for messages.
std::string UnitExporter::source_name(Member member, int layer, int64_t expert) const {
  const bool routed =
      member == Member::expert_gate || member == Member::expert_up || member == Member::expert_down;
  if (!routed || !source_.has_fused_experts(layer)) {
    return source_.prefix().name(member, layer, std::max<int64_t>(expert, 0));
  }
  const Member bank =
      member == Member::expert_down ? Member::experts_down : Member::experts_gate_up;
  return fmt::format("{}, expert {}", source_.prefix().name(bank, layer), expert);
}

Result<UnitExporter::Group> UnitExporter::expert_group(int layer, int64_t index) {
  const bool shared = index == model::kSharedExpert;
  const auto& members = shared ? kSharedMembers : kExpertMembers;
  Group group;
  if (plan_.of(members[0], layer) == ModuleFormat::bf16) return group;
  NIBBLE_ASSIGN_OR_RETURN(const ExpertWeights expert, source_.expert(layer, index));
  const std::array<ConstTensorView, 3> weights = {expert.gate.weight, expert.up.weight,
                                                  expert.down.weight};
  for (size_t i = 0; i < members.size(); ++i) {
    group.matrices.push_back(
        {members[i], layer, index, weights[i], plan_.of(members[i], layer), 0.0f});
    group.source_names.push_back(source_name(members[i], layer, index));
  }
  return group;
}

Result<UnitExporter::Group> UnitExporter::dense_group(std::span<const Member> members, int layer) {
  Group group;
  for (const Member member : members) {
    const ModuleFormat format = plan_.of(member, layer);
    if (format == ModuleFormat::bf16) continue;
    NIBBLE_ASSIGN_OR_RETURN(const LinearWeight weight, source_.linear(member, layer));
    group.matrices.push_back({member, layer, 0, weight.weight, format, 0.0f});
    group.source_names.push_back(source_name(member, layer, 0));
  }
  return group;
}

// Each routed expert, the shared one, the other projections of a layer; or the head.
int64_t UnitExporter::num_groups(const ExportUnit& unit) const {
  if (unit.is_head) return 1;
  return unit.layer == kOutsideLayers ? 0 : source_.config().num_experts + 2;
}

Result<UnitExporter::Group> UnitExporter::group_at(const ExportUnit& unit, int64_t number) {
  if (unit.is_head) return dense_group(kHeadMembers, kOutsideLayers);
  const int64_t experts = source_.config().num_experts;
  if (number < experts) return expert_group(unit.layer, number);
  if (number == experts) return expert_group(unit.layer, model::kSharedExpert);
  return dense_group(plan_.dense_members(unit.layer), unit.layer);
}

// The next group is read from the disk while one is worked on.
Result<void> UnitExporter::for_each_group(const ExportUnit& unit, const GroupBody& body) {
  const int64_t count = num_groups(unit);
  Group next;
  for (int64_t i = 0; i <= count; ++i) {
    Group group = std::move(next);
    if (i < count) {
      NIBBLE_ASSIGN_OR_RETURN(next, group_at(unit, i));
      for (const Matrix& matrix : next.matrices) {
        prefetch_mapped({matrix.weight.data(), matrix.weight.bytes()});
      }
    }
    if (i == 0) continue;
    NIBBLE_RETURN_IF_ERROR(body(group));
    source_.release_pages();
  }
  return {};
}

float UnitExporter::magnitude_of(const Matrix& matrix, const std::string& source_name) {
  const auto known = scanned_.find({matrix.member, matrix.expert});
  if (known != scanned_.end()) return known->second;
  const float found = device_.max_magnitude(matrix.weight);
  if (!std::isfinite(found)) note_not_finite(source_name, matrix.weight);
  return found;
}

Result<void> UnitExporter::scan(const ExportUnit& unit, Output output) {
  scanned_.clear();
  for (const std::string& name : unit.copies) {
    NIBBLE_RETURN_IF_ERROR(output.sink.poll());
    note_not_finite(name, checkpoint_.view(name));
    source_.release_pages();
  }
  std::map<std::pair<Member, int64_t>, float> found;
  const auto scan_group = [&](Group& group) -> Result<void> {
    NIBBLE_RETURN_IF_ERROR(output.sink.poll());
    for (size_t i = 0; i < group.matrices.size(); ++i) {
      const Matrix& matrix = group.matrices[i];
      found[{matrix.member, matrix.expert}] = magnitude_of(matrix, group.source_names[i]);
    }
    return {};
  };
  NIBBLE_RETURN_IF_ERROR(for_each_group(unit, scan_group));
  scanned_ = std::move(found);
  return {};
}

// A maximum from the table where it has one (a clipped calibration), else from the weights. Those
// that loaders fuse carry one NVFP4 tensor scale, or the fused weight goes wrong (nvfp4.md 1.7).
void UnitExporter::find_maxima(Group& group, const ActivationMaxima& maxima) {
  std::vector<float> own;
  for (size_t i = 0; i < group.matrices.size(); ++i) {
    const Matrix& matrix = group.matrices[i];
    const float found = magnitude_of(matrix, group.source_names[i]);
    const std::string quantizer =
        weight_quantizer(source_.prefix(), matrix.member, matrix.layer, matrix.expert);
    own.push_back(maxima.find(quantizer).value_or(found));
  }
  for (size_t i = 0; i < group.matrices.size(); ++i) {
    Matrix& matrix = group.matrices[i];
    matrix.amax = own[i];
    if (matrix.format == ModuleFormat::fp8) continue;
    for (size_t j = 0; j < group.matrices.size(); ++j) {
      const Matrix& other = group.matrices[j];
      const bool shared = scale_leader(other.member) == scale_leader(matrix.member) &&
                          other.format == matrix.format;
      if (shared) matrix.amax = std::max(matrix.amax, own[j]);
    }
  }
}

Result<void> UnitExporter::write_copy(const std::string& name, TensorSink& sink) {
  const ConstTensorView view = checkpoint_.view(name);
  note_not_finite(name, view);
  if (!not_finite_.empty()) return {};
  if (exported_dtype(*checkpoint_.find(name)) == view.dtype()) {
    return sink.append(name, {view.data(), view.bytes()});
  }
  return sink.append(name, rounded_to_bf16(view));
}

Result<void> UnitExporter::write_kv_scales(int layer, TensorSink& sink) {
  for (const auto& [member, suffix] : kKvScales) {
    NIBBLE_RETURN_IF_ERROR(sink.append(source_.prefix().stem(member, layer) + suffix,
                                       scales_.kv_scale(member, layer)));
  }
  return {};
}

Result<void> UnitExporter::write(const ExportUnit& unit, const LayerStatistics& statistics,
                                 Output output) {
  for (const std::string& name : unit.copies) {
    NIBBLE_RETURN_IF_ERROR(write_copy(name, output.sink));
    source_.release_pages();
  }
  MatrixWriter writer(device_, job_, source_.prefix(), scales_, output.sink, output.errors);
  const auto write_group = [&](Group& group) -> Result<void> {
    find_maxima(group, output.maxima);
    if (!not_finite_.empty()) return output.sink.poll();
    for (const Matrix& matrix : group.matrices) {
      NIBBLE_RETURN_IF_ERROR(writer.write(matrix, statistics));
    }
    return {};
  };
  NIBBLE_RETURN_IF_ERROR(for_each_group(unit, write_group));
  scanned_.clear();
  const bool has_scales = unit.layer != kOutsideLayers && plan_.has_kv_scales(unit.layer);
  if (!has_scales || !not_finite_.empty()) return {};
  return write_kv_scales(unit.layer, output.sink);
}

}  // namespace nibble::quantize
