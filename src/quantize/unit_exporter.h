// UnitExporter: writes the tensors of one unit: copies as they are, matrices quantized.
//
// One matrix is in memory at a time, the source is mapped and its pages are let go after each group
// of matrices. A unit that has a value which is not finite is looked through to its end, so that
// all such tensors are named, but not written on.
#pragma once

#include "base/problems.h"
#include "formats/checkpoint.h"
#include "model/checkpoint_source.h"
#include "quantize/export_layout.h"
#include "quantize/matrix_writer.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace nibble::quantize {

/// One thread. All references must outlive it.
class UnitExporter {
 public:
  UnitExporter(device::Device& device, model::CheckpointSource& source,
               const formats::Checkpoint& checkpoint, const ExportJob& job, const FormatPlan& plan,
               const ScaleTable& scales)
      : device_(device),
        source_(source),
        checkpoint_(checkpoint),
        job_(job),
        plan_(plan),
        scales_(scales) {}

  /// Where write() puts tensors and errors, and the maxima of weights that a table may hold.
  struct Output {
    TensorSink& sink;
    ErrorLog& errors;
    const ActivationMaxima& maxima;
  };

  /// Reads the unit through and notes what is not finite: before a layer is run, since its numbers
  /// would only show in the maxima.
  Result<void> scan(const ExportUnit& unit, Output output);
  /// statistics: of the unit's layer.
  Result<void> write(const ExportUnit& unit, const LayerStatistics& statistics, Output output);

  /// Of the units so far.
  const Problems& not_finite() const { return not_finite_; }

 private:
  // Matrices of one module, and what they are called in the source.
  struct Group {
    std::vector<Matrix> matrices;
    std::vector<std::string> source_names;
  };
  using GroupBody = std::function<Result<void>(Group&)>;

  Result<void> for_each_group(const ExportUnit& unit, const GroupBody& body);
  int64_t num_groups(const ExportUnit& unit) const;
  Result<Group> group_at(const ExportUnit& unit, int64_t number);
  Result<Group> expert_group(int layer, int64_t index);
  Result<Group> dense_group(std::span<const model::Member> members, int layer);
  Result<void> write_copy(const std::string& name, TensorSink& sink);
  float magnitude_of(const Matrix& matrix, const std::string& source_name);
  void find_maxima(Group& group, const ActivationMaxima& maxima);
  Result<void> write_kv_scales(int layer, TensorSink& sink);
  void note_not_finite(const std::string& name, ConstTensorView view);
  std::string source_name(model::Member member, int layer, int64_t expert) const;

  device::Device& device_;
  model::CheckpointSource& source_;
  const formats::Checkpoint& checkpoint_;
  const ExportJob& job_;
  const FormatPlan& plan_;
  const ScaleTable& scales_;
  std::map<std::pair<model::Member, int64_t>, float> scanned_;  // magnitudes of the unit scanned
  Problems not_finite_;
};

}  // namespace nibble::quantize
