#include "quantize/exporter.h"

#include "base/file.h"
#include "base/problems.h"
#include "formats/bf16.h"
#include "formats/checkpoint_writer.h"
#include "formats/nvfp4.h"
#include "quantize/export_config.h"
#include "quantize/finite_check.h"
#include "quantize/scale_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>

namespace nibble::quantize {
namespace {

namespace fs = std::filesystem;
using formats::LinearWeight;
using formats::TensorSpec;
using model::ExpertWeights;
using model::Member;

// Files of the source that travel unchanged. Weights, their index and both configurations are
// written anew.
bool travels(const std::string& name) {
  if (name == "config.json" || name == "hf_quant_config.json" || name.ends_with(".index.json") ||
      name.starts_with(".") || name.starts_with("calibration")) {
    return false;
  }
  return name.ends_with(".json") || name.ends_with(".jinja") || name == "merges.txt" ||
         name == "LICENSE" || name == "NOTICE";
}

// Source tensors are held in BF16 by ModelOpt, so F32 ones come out rounded; the draft layer is
// copied as it is.
DType exported_dtype(const formats::TensorInfo& tensor) {
  const bool draft = tensor.name.starts_with("mtp.") || tensor.name.starts_with("model.mtp.");
  return tensor.dtype == DType::f32 && !draft ? DType::bf16 : tensor.dtype;
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

// One matrix to be quantized, its two scales still open.
struct Matrix {
  std::string stem;
  int64_t rows, columns;
};

// What one matrix is made from.
struct MatrixInput {
  std::string stem;
  ConstTensorView weight;
  float amax;
  float input_scale;
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
  void declare();
  void declare_layer(int layer);
  void declare_matrix(const Matrix& matrix);
  void declare_copy(std::string_view name);
  Matrix matrix_of(Member member, int layer, int64_t expert) const;
  bool has_kv_scales(int layer) const;
  Result<void> write_tensors();
  Result<void> write_copy(const std::string& name);
  Result<void> write_layer(int layer);
  Result<void> write_expert(int layer, int64_t index);
  Result<void> write_matrix(const MatrixInput& input);
  Result<void> write_kv_scales(int layer);
  Result<void> append(const std::string& name, std::span<const std::byte> bytes);
  Result<void> append_scalar(const std::string& name, float value);
  void note_not_finite(const std::string& name, ConstTensorView view);
  float weight_amax(const std::string& what, const std::string& quantizer, ConstTensorView part);
  std::string source_name(Member member, Member bank, int layer, int64_t expert) const;
  Result<void> write_configuration(const OutputFolder& folder);

  device::Device& device_;
  model::CheckpointSource& source_;
  const formats::Checkpoint& checkpoint_;
  const ActivationMaxima& maxima_;
  const ExportJob& job_;
  const ExportProgress& progress_;
  ScaleTable scales_;
  std::vector<TensorSpec> specs_;
  std::vector<std::string> copies_;
  std::unique_ptr<formats::CheckpointWriter> writer_;
  std::vector<uint8_t> codes_, block_scales_;
  Problems not_finite_;  // once there is one, the rest of the source is read for more of them only
  int64_t done_bytes_ = 0;
  ExportReport report_;
};

Matrix Exporter::matrix_of(Member member, int layer, int64_t expert) const {
  const Shape shape = model::expected_shape(member, source_.config());
  return {source_.prefix().stem(member, layer, expert), shape[0], shape[1]};
}

bool Exporter::has_kv_scales(int layer) const {
  const auto type = source_.config().layer_types[static_cast<size_t>(layer)];
  return job_.recipe.fp8_kv && type == formats::LayerType::full_attention;
}

void Exporter::declare_matrix(const Matrix& m) {
  specs_.push_back({m.stem + ".weight", DType::u8, Shape{m.rows, m.columns / 2}});
  specs_.push_back({m.stem + ".weight_scale", DType::f8_e4m3, Shape{m.rows, m.columns / 16}});
  specs_.push_back({m.stem + ".weight_scale_2", DType::f32, Shape{}});
  if (job_.recipe.input_scales) specs_.push_back({m.stem + ".input_scale", DType::f32, Shape{}});
  report_.quantized_weights += m.rows * m.columns;
  report_.quantized_bytes += m.rows * m.columns * 9 / 16 + (job_.recipe.input_scales ? 8 : 4);
}

void Exporter::declare_copy(std::string_view name) {
  const formats::TensorInfo& tensor = *checkpoint_.find(name);
  specs_.push_back({tensor.name, exported_dtype(tensor), tensor.shape});
  copies_.push_back(tensor.name);
}

void Exporter::declare_layer(int layer) {
  for (int64_t e = 0; e < source_.config().num_experts; ++e) {
    for (const Member member : {Member::expert_gate, Member::expert_up, Member::expert_down}) {
      declare_matrix(matrix_of(member, layer, e));
    }
  }
  for (const Member member : {Member::shared_gate, Member::shared_up, Member::shared_down}) {
    declare_matrix(matrix_of(member, layer, 0));
  }
  if (!has_kv_scales(layer)) return;
  for (const auto& [member, suffix] :
       {std::pair(Member::k_proj, ".k_scale"), std::pair(Member::v_proj, ".v_scale")}) {
    specs_.push_back({source_.prefix().stem(member, layer) + suffix, DType::f32, Shape{}});
  }
}

// The order of declaration is the order of writing, so that shards are finished one after the
// other.
void Exporter::declare() {
  for (const std::string_view name : checkpoint_.names()) {
    report_.all_weights += checkpoint_.find(name)->shape.elements();
    const auto parsed =
        model::is_other_part(name) ? std::nullopt : model::parse_name(name, source_.prefix());
    if (parsed && job_.recipe.quantizes(parsed->member)) continue;
    const bool old_scale = parsed && (parsed->rest == ".k_scale" || parsed->rest == ".v_scale");
    if (!(old_scale && job_.recipe.fp8_kv)) declare_copy(name);
  }
  for (int layer = 0; layer < source_.config().num_hidden_layers; ++layer) declare_layer(layer);
}

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
std::string Exporter::source_name(Member member, Member bank, int layer, int64_t expert) const {
  if (expert == model::kSharedExpert) return source_.prefix().name(member, layer);
  if (!source_.has_fused_experts(layer)) return source_.prefix().name(member, layer, expert);
  return fmt::format("{}, expert {}", source_.prefix().name(bank, layer), expert);
}

// A weight maximum from the table where it has one (a clipped calibration), else from the weights.
float Exporter::weight_amax(const std::string& what, const std::string& quantizer,
                            ConstTensorView part) {
  const float found = device_.max_magnitude(part);
  if (!std::isfinite(found)) note_not_finite(what, part);
  return maxima_.find(quantizer).value_or(found);
}

Result<void> Exporter::write_matrix(const MatrixInput& input) {
  const auto count = static_cast<size_t>(input.weight.shape().elements());
  codes_.resize(count / 2);
  block_scales_.resize(count / 16);
  // An all-zero matrix keeps usable scales, except where its ModelOpt's own are wanted (nvfp4.md
  // 1.5).
  const bool ours = job_.compat.version == Compat::Version::none;
  const float amax = input.amax == 0 && ours ? 1.0f : input.amax;
  const float tensor_scale = formats::nvfp4_tensor_scale(amax, job_.compat.rules.division);
  if (not_finite_.empty() && writer_->needs(input.stem + ".weight")) {
    device_.quantize_nvfp4(input.weight, tensor_scale, job_.compat.rules, codes_.data(),
                           block_scales_.data());
  }
  NIBBLE_RETURN_IF_ERROR(append(input.stem + ".weight", std::as_bytes(std::span(codes_))));
  NIBBLE_RETURN_IF_ERROR(
      append(input.stem + ".weight_scale", std::as_bytes(std::span(block_scales_))));
  NIBBLE_RETURN_IF_ERROR(append_scalar(input.stem + ".weight_scale_2", tensor_scale));
  if (!job_.recipe.input_scales) return {};
  return append_scalar(input.stem + ".input_scale", input.input_scale);
}

Result<void> Exporter::write_expert(int layer, int64_t index) {
  NIBBLE_ASSIGN_OR_RETURN(const ExpertWeights expert, source_.expert(layer, index));
  const bool shared = index == model::kSharedExpert;
  const int64_t e = shared ? 0 : index;
  const LayerScales& scales = scales_.layers[static_cast<size_t>(layer)];
  const QuantizerNames names(source_.prefix().text + "layers." + std::to_string(layer) + ".");
  const Member gate = shared ? Member::shared_gate : Member::expert_gate;
  const Member up = shared ? Member::shared_up : Member::expert_up;
  const Member down = shared ? Member::shared_down : Member::expert_down;
  const auto amax = [&](Member member, Member bank, const char* projection, ConstTensorView view) {
    const std::string routed =
        bank == Member::experts_down ? names.expert_down_weight(e) : names.expert_gate_up_weight(e);
    return weight_amax(source_name(member, bank, layer, index),
                       shared ? names.shared_weight(projection) : routed, view);
  };
  // Gate and up carry one tensor scale, or loaders that fuse them go wrong (nvfp4.md 1.7).
  const float gate_amax = amax(gate, Member::experts_gate_up, "gate_proj", expert.gate.weight);
  const float up_amax = amax(up, Member::experts_gate_up, "up_proj", expert.up.weight);
  const float down_amax = amax(down, Member::experts_down, "down_proj", expert.down.weight);
  const float gate_up_amax = std::max(gate_amax, up_amax);
  const float gate_up_input = shared ? scales.shared_gate_up_input : scales.experts_gate_up_input;
  const float down_input = shared ? scales.shared_down_input : scales.experts_down_input;
  const auto stem = [&](Member member) { return source_.prefix().stem(member, layer, e); };
  NIBBLE_RETURN_IF_ERROR(
      write_matrix({stem(gate), expert.gate.weight, gate_up_amax, gate_up_input}));
  NIBBLE_RETURN_IF_ERROR(write_matrix({stem(up), expert.up.weight, gate_up_amax, gate_up_input}));
  return write_matrix({stem(down), expert.down.weight, down_amax, down_input});
}

Result<void> Exporter::write_kv_scales(int layer) {
  const LayerScales& scales = scales_.layers[static_cast<size_t>(layer)];
  const model::NamePrefix& prefix = source_.prefix();
  NIBBLE_RETURN_IF_ERROR(append_scalar(prefix.stem(Member::k_proj, layer) + ".k_scale", scales.k));
  return append_scalar(prefix.stem(Member::v_proj, layer) + ".v_scale", scales.v);
}

Result<void> Exporter::write_layer(int layer) {
  for (int64_t e = 0; e < source_.config().num_experts; ++e) {
    NIBBLE_RETURN_IF_ERROR(write_expert(layer, e));
  }
  NIBBLE_RETURN_IF_ERROR(write_expert(layer, model::kSharedExpert));
  return has_kv_scales(layer) ? write_kv_scales(layer) : Result<void>();
}

Result<void> Exporter::write_tensors() {
  for (const std::string& name : copies_) NIBBLE_RETURN_IF_ERROR(write_copy(name));
  for (int layer = 0; layer < source_.config().num_hidden_layers; ++layer) {
    NIBBLE_RETURN_IF_ERROR(write_layer(layer));
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
                                             job_.recipe, job_.compat, has_vision));
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

Result<ExportReport> Exporter::run(OutputFolder& folder) {
  NIBBLE_ASSIGN_OR_RETURN(scales_, ScaleTable::make(source_, maxima_, job_.recipe, job_.compat));
  declare();
  NIBBLE_ASSIGN_OR_RETURN(auto writer, formats::CheckpointWriter::create(folder.partial(), specs_,
                                                                         job_.max_shard_bytes));
  writer_ = std::make_unique<formats::CheckpointWriter>(std::move(writer));
  report_.source_bytes = static_cast<int64_t>(checkpoint_.total_bytes());
  report_.destination_bytes = static_cast<int64_t>(writer_->total_bytes());
  if (const Result<void> written = write_tensors(); !written.ok()) {
    if (!not_finite_.empty()) folder.discard();  // the same source will never do
    return written.error();
  }
  NIBBLE_RETURN_IF_ERROR(write_configuration(folder));
  NIBBLE_RETURN_IF_ERROR(folder.publish());
  progress_(report_.destination_bytes, report_.destination_bytes);
  report_.warnings = scales_.warnings;
  return report_;
}

}  // namespace

Result<void> check_quantizable(const model::CheckpointSource& source, const std::string& what) {
  const formats::ModelConfig& config = source.config();
  Problems problems;
  for (int layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (const bool shared : {false, true}) {
      const formats::WeightFormat format = source.expert_format(layer, shared);
      if (format == formats::WeightFormat::bf16) continue;
      problems.add(fmt::format("layer {}: {} already stored as {}, expected BF16", layer,
                               shared ? "shared expert" : "experts",
                               formats::weight_format_name(format)));
    }
  }
  for (const auto& [field, size] :
       {std::pair("hidden_size", config.hidden_size),
        std::pair("moe_intermediate_size", config.moe_intermediate_size),
        std::pair("shared_expert_intermediate_size", config.shared_expert_intermediate_size)}) {
    if (size % formats::kNvfp4Block != 0) {
      problems.add(fmt::format("{}: {}, expected a multiple of 16 for NVFP4", field, size));
    }
  }
  return problems.empty() ? Result<void>() : problems.error(ErrorCode::unsupported, what);
}

Result<std::string> describe_job(const formats::Checkpoint& checkpoint, const ExportJob& job,
                                 const std::string& calibration) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string config,
                          read_file(job.source_directory + "/config.json"));
  std::string text = fmt::format(
      "nibble quantize 1\nrecipe {}\ncompat {} {} {}\nshards {}\ncalibration {}\n", job.recipe.name,
      static_cast<int>(job.compat.version), static_cast<int>(job.compat.rules.division),
      job.compat.rules.clamps_block_scales, job.max_shard_bytes, calibration);
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
