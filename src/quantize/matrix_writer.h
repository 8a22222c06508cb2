// MatrixWriter: one matrix in its new format: codes, scales and scalars, written and measured
// against the source.
#pragma once

#include "device/device.h"
#include "quantize/error_log.h"
#include "quantize/export_job.h"
#include "quantize/layer_statistics.h"
#include "quantize/scale_table.h"
#include "quantize/tensor_sink.h"
#include "quantize/whole_moments.h"

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::quantize {

/// One matrix to be quantized.
struct Matrix {
  model::Member member;
  int layer;
  int64_t expert;  // model::kSharedExpert, an index, or 0
  ConstTensorView weight;  // [N][K] BF16
  ModuleFormat format;
  /// Largest magnitude, or the clipped one of a calibration table; of all matrices that share a
  /// tensor scale.
  float amax = 0;
};

/// One thread, the matrices of one layer. All references must outlive it.
class MatrixWriter {
 public:
  MatrixWriter(device::Device& device, const ExportJob& job, const model::NamePrefix& prefix,
               const ScaleTable& scales, TensorSink& sink, ErrorLog& errors)
      : device_(device),
        job_(job),
        prefix_(prefix),
        scales_(scales),
        sink_(sink),
        errors_(errors),
        whole_(device) {}

  /// statistics: of the matrix's layer.
  Result<void> write(const Matrix& matrix, const LayerStatistics& statistics);

 private:
  std::string stem_of(const Matrix& matrix) const;
  Result<void> write_nvfp4(const Matrix& matrix, const LayerStatistics& statistics);
  Result<void> write_fp8(const Matrix& matrix);
  Result<void> encode_nvfp4(const Matrix& matrix, float amax, float tensor_scale,
                            const LayerStatistics& statistics);
  void search_and_encode(const Matrix& matrix, const formats::ScaleSearch& search,
                         float tensor_scale);
  Result<void> write_input_scale(const Matrix& matrix);
  bool is_ours() const { return job_.compat.version == Compat::Version::none; }

  device::Device& device_;
  const ExportJob& job_;
  const model::NamePrefix& prefix_;
  const ScaleTable& scales_;
  TensorSink& sink_;
  ErrorLog& errors_;
  WholeMoments whole_;
  std::vector<uint8_t> codes_, block_scales_;
};

}  // namespace nibble::quantize
