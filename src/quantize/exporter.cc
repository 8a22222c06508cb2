#include "quantize/exporter.h"

#include "base/file.h"
#include "base/problems.h"
#include "formats/bf16.h"
#include "formats/checkpoint_writer.h"
#include "formats/nvfp4_encode.h"
#include "formats/nvfp4_search.h"
#include "quantize/export_config.h"
#include "quantize/export_layout.h"
#include "quantize/finite_check.h"
#include "quantize/quality_report.h"
#include "quantize/quantizer_names.h"
#include "quantize/scale_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

namespace nibble::quantize {
namespace {

namespace fs = std::filesystem;
using formats::LinearWeight;
using formats::ScaleMethod;
using model::ExpertWeights;
using model::Member;

constexpr std::array kHeadMembers = {Member::lm_head};

// Files of the source that travel unchanged. Weights, their index and both configurations are
// written anew.
bool travels(const std::string& name) {
  if (name == "config.json" || name == "hf_quant_config.json" || name == "quality_report.json" ||
      name.ends_with(".index.json") || name.starts_with(".") || name.starts_with("calibration")) {
    return false;
  }
  return name.ends_with(".json") || name.ends_with(".jinja") || name == "merges.txt" ||
         name == "LICENSE" || name == "NOTICE";
}

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

ConstTensorView bytes_view(const std::vector<uint8_t>& bytes, DType dtype, const Shape& shape) {
  return {reinterpret_cast<const std::byte*>(bytes.data()), dtype, shape};
}

// One matrix to be quantized.
struct Matrix {
  Member member;
  int layer;
  int64_t expert;  // kSharedExpert, an index, or 0
  ConstTensorView weight;
  std::string source_name;  // for messages
  float amax = 0;
};

class Exporter {
 public:
  Exporter(device::Device& device, model::CheckpointSource& source,
           const formats::Checkpoint& checkpoint, const ActivationMaxima& maxima,
           const ExportJob& job, const ExportProgress& progress)
      : device_(device),
        source_(source),
        checkpoint_(checkpoint),
        maxima_(maxima),
        job_(job),
        progress_(progress) {}

  Result<ExportReport> run(OutputFolder& folder);

 private:
  ModuleFormat format_of(Member member, int layer) const { return plan_.of(member, layer); }
  std::string stem_of(const Matrix& matrix) const {
    return source_.prefix().stem(matrix.member, matrix.layer, std::max<int64_t>(matrix.expert, 0));
  }
  Result<void> write_tensors();
  Result<void> write_copy(const std::string& name);
  Result<void> write_layer(int layer);
  Result<void> write_expert(int layer, int64_t index);
  Result<void> write_dense(std::span<const Member> members, int layer);
  Result<void> write_group(std::vector<Matrix> group);
  Result<void> write_nvfp4(const Matrix& matrix, float amax);
  Result<void> write_fp8(const Matrix& matrix);
  void encode_nvfp4(const Matrix& matrix, float amax, float tensor_scale);
  Result<void> measure(const Matrix& matrix, const LinearWeight& stored);
  bool must_encode(const std::string& stem) const;
  Result<void> write_input_scale(const Matrix& matrix);
  Result<void> write_kv_scales(int layer);
  Result<void> append(const std::string& name, std::span<const std::byte> bytes);
  Result<void> append_scalar(const std::string& name, float value);
  void note_not_finite(const std::string& name, ConstTensorView view);
  std::string source_name(Member member, int layer, int64_t expert) const;
  Result<void> write_configuration(const OutputFolder& folder);
  Result<void> write_report(const OutputFolder& folder);
  bool is_ours() const { return job_.compat.version == Compat::Version::none; }

  device::Device& device_;
  model::CheckpointSource& source_;
  const formats::Checkpoint& checkpoint_;
  const ActivationMaxima& maxima_;
  const ExportJob& job_;
  const ExportProgress& progress_;
  FormatPlan plan_;
  ScaleTable scales_;
  LayerMoments moments_;  // of the layer being written
  ErrorLog errors_;
  ExportLayout layout_;
  std::unique_ptr<formats::CheckpointWriter> writer_;
  std::vector<uint8_t> codes_, block_scales_;
  Problems not_finite_;  // once there is one, the rest of the source is read for more of them only
  int64_t done_bytes_ = 0;
  ExportReport report_;
};

Result<void> Exporter::append(const std::string& name, std::span<const std::byte> bytes) {
  if (!progress_(done_bytes_, report_.destination_bytes)) {
    return Error{ErrorCode::cancelled, "quantizing was interrupted"};
  }
  done_bytes_ += static_cast<int64_t>(bytes.size());
  if (!not_finite_.empty() || !writer_->needs(name)) return {};
  return writer_->append(name, bytes);
}

Result<void> Exporter::append_scalar(const std::string& name, float value) {
  return append(name, std::as_bytes(std::span(&value, 1)));
}

void Exporter::note_not_finite(const std::string& name, ConstTensorView view) {
  const int64_t count = count_not_finite(view);
  if (count > 0) not_finite_.add(fmt::format("{}: {} of its values are not finite", name, count));
}

Result<void> Exporter::write_copy(const std::string& name) {
  const ConstTensorView view = checkpoint_.view(name);
  note_not_finite(name, view);
  if (exported_dtype(*checkpoint_.find(name)) == view.dtype()) {
    return append(name, {view.data(), view.bytes()});
  }
  return append(name, rounded_to_bf16(view));
}

// Name of a matrix in the source, for messages.
std::string Exporter::source_name(Member member, int layer, int64_t expert) const {
  const bool routed =
      member == Member::expert_gate || member == Member::expert_up || member == Member::expert_down;
  if (!routed || !source_.has_fused_experts(layer)) {
    return source_.prefix().name(member, layer, std::max<int64_t>(expert, 0));
  }
  const Member bank =
      member == Member::expert_down ? Member::experts_down : Member::experts_gate_up;
  return fmt::format("{}, expert {}", source_.prefix().name(bank, layer), expert);
}

// False when the codes lie in a finished shard and have been measured.
bool Exporter::must_encode(const std::string& stem) const {
  return not_finite_.empty() && (writer_->needs(stem + ".weight") || errors_.find(stem) == nullptr);
}

void Exporter::encode_nvfp4(const Matrix& matrix, float amax, float tensor_scale) {
  if (job_.scales == ScaleMethod::max) {
    device_.quantize_nvfp4(matrix.weight, tensor_scale, job_.compat.rules, codes_.data(),
                           block_scales_.data());
    return;
  }
  std::vector<float> moments;
  if (job_.scales == ScaleMethod::hessian) moments = moments_.mean(matrix.member, matrix.expert);
  const formats::ScaleSearch search{job_.scales, amax, job_.compat.rules,
                                    moments.empty() ? nullptr : moments.data()};
  device_.search_nvfp4_scales(matrix.weight, search, block_scales_.data());
  device_.encode_nvfp4(matrix.weight, tensor_scale, block_scales_.data(), codes_.data());
}

Result<void> Exporter::measure(const Matrix& matrix, const LinearWeight& stored) {
  return errors_.add(stem_of(matrix), device_.weight_error(matrix.weight, stored));
}

Result<void> Exporter::write_nvfp4(const Matrix& matrix, float amax) {
  const std::string stem = stem_of(matrix);
  const Shape& shape = matrix.weight.shape();
  codes_.resize(static_cast<size_t>(shape.elements()) / 2);
  block_scales_.resize(static_cast<size_t>(shape.elements()) / 16);
  // An all-zero matrix keeps usable scales, except where its ModelOpt's own are wanted (nvfp4.md
  // 1.5).
  if (amax == 0 && is_ours()) amax = 1.0f;
  const float tensor_scale =
      formats::tensor_scale_for(job_.scales, amax, job_.compat.rules.division);
  if (must_encode(stem)) {
    encode_nvfp4(matrix, amax, tensor_scale);
    LinearWeight stored;
    stored.format = formats::WeightFormat::nvfp4;
    stored.out_features = shape[0];
    stored.in_features = shape[1];
    stored.weight = bytes_view(codes_, DType::u8, Shape{shape[0], shape[1] / 2});
    stored.weight_scale = bytes_view(block_scales_, DType::f8_e4m3, Shape{shape[0], shape[1] / 16});
    stored.weight_scale_2 = tensor_scale;
    NIBBLE_RETURN_IF_ERROR(measure(matrix, stored));
  }
  NIBBLE_RETURN_IF_ERROR(append(stem + ".weight", std::as_bytes(std::span(codes_))));
  NIBBLE_RETURN_IF_ERROR(append(stem + ".weight_scale", std::as_bytes(std::span(block_scales_))));
  NIBBLE_RETURN_IF_ERROR(append_scalar(stem + ".weight_scale_2", tensor_scale));
  return write_input_scale(matrix);
}

Result<void> Exporter::write_fp8(const Matrix& matrix) {
  const std::string stem = stem_of(matrix);
  const Shape& shape = matrix.weight.shape();
  codes_.resize(static_cast<size_t>(shape.elements()));
  const auto division = job_.compat.rules.division;
  const float amax = matrix.amax == 0 && is_ours() ? 1.0f : matrix.amax;
  const float scale = formats::fp8_tensor_scale(amax, division);
  if (must_encode(stem)) {
    device_.quantize_fp8(matrix.weight, scale, division, codes_.data());
    LinearWeight stored;
    stored.format = formats::WeightFormat::fp8;
    stored.out_features = shape[0];
    stored.in_features = shape[1];
    stored.weight = bytes_view(codes_, DType::f8_e4m3, shape);
    stored.weight_scale_2 = scale;
    NIBBLE_RETURN_IF_ERROR(measure(matrix, stored));
  }
  NIBBLE_RETURN_IF_ERROR(append(stem + ".weight", std::as_bytes(std::span(codes_))));
  NIBBLE_RETURN_IF_ERROR(append_scalar(stem + ".weight_scale", scale));
  return write_input_scale(matrix);
}

Result<void> Exporter::write_input_scale(const Matrix& matrix) {
  if (!has_input_scale(format_of(matrix.member, matrix.layer))) return {};
  return append_scalar(stem_of(matrix) + ".input_scale",
                       scales_.input_scales.at(matrix.member, matrix.layer));
}

// Matrices of one module. Those that loaders fuse carry one NVFP4 tensor scale, or the fused weight
// goes wrong (nvfp4.md 1.7).
Result<void> Exporter::write_group(std::vector<Matrix> group) {
  for (Matrix& matrix : group) {
    // A maximum from the table where it has one (a clipped calibration), else from the weights.
    const float found = device_.max_magnitude(matrix.weight);
    if (!std::isfinite(found)) note_not_finite(matrix.source_name, matrix.weight);
    const std::string quantizer =
        weight_quantizer(source_.prefix(), matrix.member, matrix.layer, matrix.expert);
    matrix.amax = maxima_.find(quantizer).value_or(found);
  }
  for (const Matrix& matrix : group) {
    const ModuleFormat format = format_of(matrix.member, matrix.layer);
    if (format == ModuleFormat::fp8) {
      NIBBLE_RETURN_IF_ERROR(write_fp8(matrix));
      continue;
    }
    float amax = matrix.amax;
    for (const Matrix& other : group) {
      const bool shared = scale_leader(other.member) == scale_leader(matrix.member) &&
                          format_of(other.member, other.layer) == format;
      if (shared) amax = std::max(amax, other.amax);
    }
    NIBBLE_RETURN_IF_ERROR(write_nvfp4(matrix, amax));
  }
  source_.release_pages();
  return {};
}

Result<void> Exporter::write_expert(int layer, int64_t index) {
  const bool shared = index == model::kSharedExpert;
  const auto& members = shared ? kSharedMembers : kExpertMembers;
  if (format_of(members[0], layer) == ModuleFormat::bf16) return {};
  NIBBLE_ASSIGN_OR_RETURN(const ExpertWeights expert, source_.expert(layer, index));
  const std::array<ConstTensorView, 3> weights = {expert.gate.weight, expert.up.weight,
                                                  expert.down.weight};
  std::vector<Matrix> group;
  for (size_t i = 0; i < members.size(); ++i) {
    group.push_back({members[i], layer, index, weights[i], source_name(members[i], layer, index)});
  }
  return write_group(std::move(group));
}

Result<void> Exporter::write_dense(std::span<const Member> members, int layer) {
  std::vector<Matrix> group;
  for (const Member member : members) {
    if (format_of(member, layer) == ModuleFormat::bf16) continue;
    NIBBLE_ASSIGN_OR_RETURN(const LinearWeight weight, source_.linear(member, layer));
    group.push_back({member, layer, 0, weight.weight, source_name(member, layer, 0)});
  }
  return write_group(std::move(group));
}

Result<void> Exporter::write_kv_scales(int layer) {
  for (const auto& [member, suffix] : kKvScales) {
    NIBBLE_RETURN_IF_ERROR(append_scalar(source_.prefix().stem(member, layer) + suffix,
                                         scales_.kv_scales.at(member, layer)));
  }
  return {};
}

Result<void> Exporter::write_layer(int layer) {
  if (job_.scales == ScaleMethod::hessian) {
    NIBBLE_ASSIGN_OR_RETURN(moments_, job_.moments(layer));
  }
  if (layer == kOutsideLayers) return write_dense(kHeadMembers, layer);
  for (int64_t e = 0; e < source_.config().num_experts; ++e) {
    NIBBLE_RETURN_IF_ERROR(write_expert(layer, e));
  }
  NIBBLE_RETURN_IF_ERROR(write_expert(layer, model::kSharedExpert));
  NIBBLE_RETURN_IF_ERROR(write_dense(plan_.dense_members(layer), layer));
  return plan_.has_kv_scales(layer) ? write_kv_scales(layer) : Result<void>();
}

Result<void> Exporter::write_tensors() {
  for (const std::string& name : layout_.copies) {
    NIBBLE_RETURN_IF_ERROR(write_copy(name));
    source_.release_pages();
  }
  for (int layer = 0; layer < source_.config().num_hidden_layers; ++layer) {
    NIBBLE_RETURN_IF_ERROR(write_layer(layer));
  }
  if (format_of(Member::lm_head, kOutsideLayers) != ModuleFormat::bf16) {
    NIBBLE_RETURN_IF_ERROR(write_layer(kOutsideLayers));
  }
  if (!not_finite_.empty()) return not_finite_.error(ErrorCode::corrupt, job_.source_directory);
  return writer_->finish();
}

Result<void> Exporter::write_configuration(const OutputFolder& folder) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string source_config,
                          read_file(job_.source_directory + "/config.json"));
  const std::vector<std::string_view> names = checkpoint_.names();
  const bool has_vision = std::any_of(names.begin(), names.end(), [](std::string_view name) {
    return name.starts_with("model.visual.") || name.starts_with("visual.");
  });
  NIBBLE_ASSIGN_OR_RETURN(const ExportConfig config,
                          make_export_config(source_config, source_.config(), source_.prefix(),
                                             plan_, job_.compat, has_vision));
  NIBBLE_RETURN_IF_ERROR(write_file_atomic(folder.file("config.json"), config.config_json));
  NIBBLE_RETURN_IF_ERROR(
      write_file_atomic(folder.file("hf_quant_config.json"), config.hf_quant_config));
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> files,
                          list_directory(job_.source_directory));
  for (const std::string& file : files) {
    if (!travels(file) || !file_exists(job_.source_directory + "/" + file)) continue;
    NIBBLE_ASSIGN_OR_RETURN(const std::string bytes, read_file(job_.source_directory + "/" + file));
    NIBBLE_RETURN_IF_ERROR(write_file_atomic(folder.file(file), bytes));
  }
  return {};
}

Result<void> Exporter::write_report(const OutputFolder& folder) {
  NIBBLE_RETURN_IF_ERROR(
      write_file_atomic(folder.file("quality_report.json"), quality_report_json(job_, report_)));
  return write_file_atomic(folder.file("README.md"), model_card(job_, report_));
}

Result<ExportReport> Exporter::run(OutputFolder& folder) {
  NIBBLE_CHECK(job_.scales != ScaleMethod::hessian || job_.moments, "moments for the search");
  NIBBLE_ASSIGN_OR_RETURN(plan_, FormatPlan::make(source_.config(), source_.prefix(), job_.recipe,
                                                  job_.compat, job_.rules));
  NIBBLE_ASSIGN_OR_RETURN(scales_, ScaleTable::make(source_, maxima_, plan_, job_.compat));
  errors_ = ErrorLog::open(folder.note("errors.txt"), folder.continues());
  layout_ = ExportLayout::make(source_, checkpoint_, plan_);
  NIBBLE_ASSIGN_OR_RETURN(
      auto writer,
      formats::CheckpointWriter::create(folder.partial(), layout_.tensors, job_.max_shard_bytes));
  writer_ = std::make_unique<formats::CheckpointWriter>(std::move(writer));
  report_.quantized_weights = layout_.quantized_weights;
  report_.quantized_bytes = layout_.quantized_bytes;
  report_.all_weights = layout_.all_weights;
  report_.source_bytes = static_cast<int64_t>(checkpoint_.total_bytes());
  report_.destination_bytes = static_cast<int64_t>(writer_->total_bytes());
  if (const Result<void> written = write_tensors(); !written.ok()) {
    if (!not_finite_.empty()) folder.discard();  // the same source will never do
    return written.error();
  }
  report_.errors = errors_.groups();
  report_.warnings = scales_.warnings;
  NIBBLE_RETURN_IF_ERROR(write_configuration(folder));
  if (job_.measure) {
    NIBBLE_ASSIGN_OR_RETURN(report_.quality, job_.measure(folder.partial()));
  }
  NIBBLE_RETURN_IF_ERROR(write_report(folder));
  NIBBLE_RETURN_IF_ERROR(folder.publish());
  progress_(report_.destination_bytes, report_.destination_bytes);
  return report_;
}

}  // namespace

Result<void> check_quantizable(const model::CheckpointSource& source, const ExportJob& job) {
  NIBBLE_ASSIGN_OR_RETURN(
      const FormatPlan plan,
      FormatPlan::make(source.config(), source.prefix(), job.recipe, job.compat, job.rules));
  Problems problems;
  const auto check = [&](const std::string& module, formats::WeightFormat format) {
    if (format == formats::WeightFormat::bf16) return;
    problems.add(fmt::format("{}: already stored as {}, expected BF16", module,
                             formats::weight_format_name(format)));
  };
  for (int layer = 0; layer < source.config().num_hidden_layers; ++layer) {
    check(fmt::format("layer {}: experts", layer), source.expert_format(layer, false));
    check(fmt::format("layer {}: shared expert", layer), source.expert_format(layer, true));
    for (const Member member : plan.dense_members(layer)) {
      check(source.prefix().stem(member, layer), source.format(member, layer));
    }
  }
  check(source.prefix().stem(Member::lm_head, kOutsideLayers),
        source.format(Member::lm_head, kOutsideLayers));
  return problems.empty() ? Result<void>()
                          : problems.error(ErrorCode::unsupported, job.source_directory);
}

Result<std::string> describe_job(const formats::Checkpoint& checkpoint, const ExportJob& job,
                                 const std::string& calibration) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string config,
                          read_file(job.source_directory + "/config.json"));
  std::string text = fmt::format(
      "nibble quantize 2\nrecipe {}\nscales {}\ncompat {} {} {}\nshards {}\ncalibration {}\n",
      job.recipe.name, formats::scale_method_name(job.scales), static_cast<int>(job.compat.version),
      static_cast<int>(job.compat.rules.division), job.compat.rules.clamps_block_scales,
      job.max_shard_bytes, calibration);
  for (const FormatRule& rule : job.rules) {
    text += fmt::format("rule {} {}\n", rule.pattern, module_format_name(rule.format));
  }
  std::error_code ignored;
  for (const formats::SafetensorsReader& shard : checkpoint.shards()) {
    const std::string path = fs::absolute(shard.path(), ignored).lexically_normal().string();
    const auto time = fs::last_write_time(path, ignored).time_since_epoch().count();
    text += fmt::format("{} {} {}\n", path, fs::file_size(path, ignored), time);
  }
  return text + config;
}

Result<ExportReport> export_checkpoint(device::Device& device, model::CheckpointSource& source,
                                       const formats::Checkpoint& checkpoint,
                                       const ActivationMaxima& maxima, const ExportJob& job,
                                       OutputFolder& folder, const ExportProgress& progress) {
  return Exporter(device, source, checkpoint, maxima, job, progress).run(folder);
}

}  // namespace nibble::quantize
