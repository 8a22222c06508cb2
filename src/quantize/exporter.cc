#include "quantize/exporter.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/problems.h"
#include "formats/bf16.h"
#include "formats/checkpoint_writer.h"
#include "formats/nvfp4.h"
#include "quantize/export_config.h"
#include "quantize/scale_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

namespace nibble::quantize {
namespace {

namespace fs = std::filesystem;
using formats::LinearWeight;
using formats::TensorSpec;
using model::ExpertWeights;
using model::Member;

constexpr const char* kJobFile = "nibble-job.txt";

// Files of the source that travel unchanged. Weights, their index and both configurations are
// written anew.
bool travels(const std::string& name) {
  if (name == "config.json" || name == "hf_quant_config.json" || name.ends_with(".index.json"))
    return false;
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
        progress_(progress),
        partial_(job.destination + ".partial") {}

  Result<ExportReport> run();

 private:
  Result<void> check_source();
  Result<void> prepare_directory();
  void declare();
  void declare_matrix(const Matrix& matrix);
  void declare_copy(std::string_view name);
  Matrix matrix_of(Member member, int layer, int64_t expert) const;
  Result<void> write_copies();
  Result<void> write_layer(int layer);
  Result<void> write_expert(int layer, int64_t index);
  Result<void> write_matrix(const std::string& stem, const LinearWeight& weight, float amax,
                            float input_scale);
  Result<void> write_kv_scales(int layer);
  Result<void> append(const std::string& name, std::span<const std::byte> bytes);
  Result<void> append_scalar(const std::string& name, float value);
  Result<float> weight_amax(const std::string& stem, const std::string& quantizer,
                            std::initializer_list<ConstTensorView> parts);
  Result<void> write_configuration();
  Result<void> publish();
  std::string job_fingerprint() const;

  device::Device& device_;
  model::CheckpointSource& source_;
  const formats::Checkpoint& checkpoint_;
  const ActivationMaxima& maxima_;
  const ExportJob& job_;
  const ExportProgress& progress_;
  std::string partial_;
  ScaleTable scales_;
  std::vector<TensorSpec> specs_;
  std::vector<std::string> copies_;
  std::unique_ptr<formats::CheckpointWriter> writer_;
  std::vector<uint8_t> codes_, block_scales_;
  int64_t done_bytes_ = 0;
  ExportReport report_;
};

Result<void> Exporter::check_source() {
  const formats::ModelConfig& config = source_.config();
  Problems problems;
  for (int layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (const bool shared : {false, true}) {
      const formats::WeightFormat format = source_.expert_format(layer, shared);
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
  if (problems.empty()) return {};
  return problems.error(ErrorCode::unsupported, job_.source_directory);
}

// Everything that decides the bytes: another job must not continue this one's shards.
std::string Exporter::job_fingerprint() const {
  std::string text = fmt::format("nibble quantize\nrecipe {}\ncompat {} {} {}\n", job_.recipe.name,
                                 static_cast<int>(job_.compat.version),
                                 static_cast<int>(job_.compat.rules.division),
                                 job_.compat.rules.clamps_block_scales);
  std::error_code ignored;
  for (const formats::SafetensorsReader& shard : checkpoint_.shards()) {
    const auto time = fs::last_write_time(shard.path(), ignored).time_since_epoch().count();
    text += fmt::format("{} {} {}\n", shard.path(), fs::file_size(shard.path(), ignored), time);
  }
  for (const auto& [name, amax] : maxima_.values()) text += fmt::format("{} {}\n", name, amax);
  return sha256_hex(std::as_bytes(std::span(text))) + "\n";
}

Result<void> Exporter::prepare_directory() {
  std::error_code failure;
  if (fs::exists(job_.destination, failure) && !job_.overwrite) {
    return Error{ErrorCode::invalid_argument,
                 job_.destination + ": exists already; give --overwrite or another destination"};
  }
  const std::string fingerprint = job_fingerprint();
  const Result<std::string> earlier = read_file(partial_ + "/" + kJobFile);
  if (!earlier.ok() || earlier.value() != fingerprint) fs::remove_all(partial_, failure);
  fs::create_directories(partial_, failure);
  if (failure) return errno_error(partial_, failure.value());
  return write_file_atomic(partial_ + "/" + kJobFile, fingerprint);
}

Matrix Exporter::matrix_of(Member member, int layer, int64_t expert) const {
  const Shape shape = model::expected_shape(member, source_.config());
  return {source_.prefix().stem(member, layer, expert), shape[0], shape[1]};
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

// The order of declaration is the order of writing, so that shards are finished one after the
// other.
void Exporter::declare() {
  const formats::ModelConfig& config = source_.config();
  for (const std::string_view name : checkpoint_.names()) {
    report_.all_weights += checkpoint_.find(name)->shape.elements();
    const auto parsed =
        model::is_other_part(name) ? std::nullopt : model::parse_name(name, source_.prefix());
    if (parsed && job_.recipe.quantizes(parsed->member)) continue;
    const bool old_scale = parsed && (parsed->rest == ".k_scale" || parsed->rest == ".v_scale");
    if (!(old_scale && job_.recipe.fp8_kv)) declare_copy(name);
  }
  for (int layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (int64_t e = 0; e < config.num_experts; ++e) {
      for (const Member member : {Member::expert_gate, Member::expert_up, Member::expert_down}) {
        declare_matrix(matrix_of(member, layer, e));
      }
    }
    for (const Member member : {Member::shared_gate, Member::shared_up, Member::shared_down}) {
      declare_matrix(matrix_of(member, layer, 0));
    }
    const auto type = config.layer_types[static_cast<size_t>(layer)];
    if (job_.recipe.fp8_kv && type == formats::LayerType::full_attention) {
      specs_.push_back(
          {source_.prefix().stem(Member::k_proj, layer) + ".k_scale", DType::f32, Shape{}});
      specs_.push_back(
          {source_.prefix().stem(Member::v_proj, layer) + ".v_scale", DType::f32, Shape{}});
    }
  }
}

Result<void> Exporter::append(const std::string& name, std::span<const std::byte> bytes) {
  if (!progress_(done_bytes_, report_.destination_bytes)) {
    return Error{ErrorCode::cancelled,
                 "quantizing was interrupted; the same command goes on from " + partial_};
  }
  done_bytes_ += static_cast<int64_t>(bytes.size());
  if (!writer_->needs(name)) return {};
  return writer_->append(name, bytes);
}

Result<void> Exporter::append_scalar(const std::string& name, float value) {
  return append(name, std::as_bytes(std::span(&value, 1)));
}

Result<void> Exporter::write_copies() {
  for (const std::string& name : copies_) {
    const ConstTensorView view = checkpoint_.view(name);
    if (exported_dtype(*checkpoint_.find(name)) == view.dtype()) {
      NIBBLE_RETURN_IF_ERROR(append(name, {view.data(), view.bytes()}));
    } else {
      NIBBLE_RETURN_IF_ERROR(append(name, rounded_to_bf16(view)));
    }
  }
  return {};
}

// A weight maximum from the table where it has one (a clipped calibration), else from the weights.
Result<float> Exporter::weight_amax(const std::string& stem, const std::string& quantizer,
                                    std::initializer_list<ConstTensorView> parts) {
  float amax = 0;
  for (const ConstTensorView part : parts) {
    const float found = device_.max_magnitude(part);
    if (!std::isfinite(found)) {
      return Error{ErrorCode::corrupt,
                   fmt::format("{}.weight: its largest magnitude is {}, expected finite weights",
                               stem, found)};
    }
    amax = std::max(amax, found);
  }
  const std::optional<float> given = maxima_.find(quantizer);
  if (given && !(std::isfinite(*given) && *given >= 0)) {
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("calibrated maxima: {}: {}, expected a finite maximum", quantizer, *given)};
  }
  amax = given.value_or(amax);
  const bool ours = job_.compat.version == Compat::Version::none;
  return amax == 0 && ours ? 1.0f : amax;  // an all-zero matrix keeps usable scales (nvfp4.md 1.5)
}

Result<void> Exporter::write_matrix(const std::string& stem, const LinearWeight& weight, float amax,
                                    float input_scale) {
  const auto count = static_cast<size_t>(weight.out_features * weight.in_features);
  const std::string codes_name = stem + ".weight";
  codes_.resize(count / 2);
  block_scales_.resize(count / 16);
  const float tensor_scale = formats::nvfp4_tensor_scale(amax, job_.compat.rules.division);
  if (writer_->needs(codes_name) || writer_->needs(stem + ".weight_scale")) {
    device_.quantize_nvfp4(weight.weight, tensor_scale, job_.compat.rules, codes_.data(),
                           block_scales_.data());
  }
  NIBBLE_RETURN_IF_ERROR(append(codes_name, std::as_bytes(std::span(codes_))));
  NIBBLE_RETURN_IF_ERROR(append(stem + ".weight_scale", std::as_bytes(std::span(block_scales_))));
  NIBBLE_RETURN_IF_ERROR(append_scalar(stem + ".weight_scale_2", tensor_scale));
  if (!job_.recipe.input_scales) return {};
  return append_scalar(stem + ".input_scale", input_scale);
}

Result<void> Exporter::write_expert(int layer, int64_t index) {
  NIBBLE_ASSIGN_OR_RETURN(const ExpertWeights expert, source_.expert(layer, index));
  const bool shared = index == model::kSharedExpert;
  const int64_t e = shared ? 0 : index;
  const LayerScales& scales = scales_.layers[static_cast<size_t>(layer)];
  const QuantizerNames names(source_.prefix().text + "layers." + std::to_string(layer) + ".");
  const auto stem = [&](Member routed, Member of_shared) {
    return source_.prefix().stem(shared ? of_shared : routed, layer, e);
  };
  const std::string gate = stem(Member::expert_gate, Member::shared_gate);
  const std::string up = stem(Member::expert_up, Member::shared_up);
  const std::string down = stem(Member::expert_down, Member::shared_down);
  // Gate and up carry one tensor scale, or loaders that fuse them go wrong (nvfp4.md 1.7).
  NIBBLE_ASSIGN_OR_RETURN(
      float gate_up_amax,
      weight_amax(gate, shared ? names.shared_weight("gate_proj") : names.expert_gate_up_weight(e),
                  {expert.gate.weight, expert.up.weight}));
  if (shared) {
    if (const auto up_amax = maxima_.find(names.shared_weight("up_proj"))) {
      gate_up_amax = std::max(gate_up_amax, *up_amax);
    }
  }
  NIBBLE_ASSIGN_OR_RETURN(
      const float down_amax,
      weight_amax(down, shared ? names.shared_weight("down_proj") : names.expert_down_weight(e),
                  {expert.down.weight}));
  const float gate_up_input = shared ? scales.shared_gate_up_input : scales.experts_gate_up_input;
  const float down_input = shared ? scales.shared_down_input : scales.experts_down_input;
  NIBBLE_RETURN_IF_ERROR(write_matrix(gate, expert.gate, gate_up_amax, gate_up_input));
  NIBBLE_RETURN_IF_ERROR(write_matrix(up, expert.up, gate_up_amax, gate_up_input));
  return write_matrix(down, expert.down, down_amax, down_input);
}

Result<void> Exporter::write_kv_scales(int layer) {
  const LayerScales& scales = scales_.layers[static_cast<size_t>(layer)];
  const model::NamePrefix& prefix = source_.prefix();
  NIBBLE_RETURN_IF_ERROR(append_scalar(prefix.stem(Member::k_proj, layer) + ".k_scale", scales.k));
  return append_scalar(prefix.stem(Member::v_proj, layer) + ".v_scale", scales.v);
}

Result<void> Exporter::write_layer(int layer) {
  const formats::ModelConfig& config = source_.config();
  for (int64_t e = 0; e < config.num_experts; ++e) NIBBLE_RETURN_IF_ERROR(write_expert(layer, e));
  NIBBLE_RETURN_IF_ERROR(write_expert(layer, model::kSharedExpert));
  const auto type = config.layer_types[static_cast<size_t>(layer)];
  if (!job_.recipe.fp8_kv || type != formats::LayerType::full_attention) return {};
  return write_kv_scales(layer);
}

Result<void> Exporter::write_configuration() {
  NIBBLE_ASSIGN_OR_RETURN(const std::string source_config,
                          read_file(job_.source_directory + "/config.json"));
  const std::vector<std::string_view> names = checkpoint_.names();
  const bool has_vision = std::any_of(names.begin(), names.end(), [](std::string_view name) {
    return name.starts_with("model.visual.") || name.starts_with("visual.");
  });
  NIBBLE_ASSIGN_OR_RETURN(const ExportConfig config,
                          make_export_config(source_config, source_.config(), source_.prefix(),
                                             job_.recipe, job_.compat, has_vision));
  NIBBLE_RETURN_IF_ERROR(write_file_atomic(partial_ + "/config.json", config.config_json));
  NIBBLE_RETURN_IF_ERROR(
      write_file_atomic(partial_ + "/hf_quant_config.json", config.hf_quant_config));
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> files,
                          list_directory(job_.source_directory));
  for (const std::string& file : files) {
    if (!travels(file) || !file_exists(job_.source_directory + "/" + file)) continue;
    NIBBLE_ASSIGN_OR_RETURN(const std::string bytes, read_file(job_.source_directory + "/" + file));
    NIBBLE_RETURN_IF_ERROR(write_file_atomic(partial_ + "/" + file, bytes));
  }
  return {};
}

// The old destination, if any, goes only when the new one is complete.
Result<void> Exporter::publish() {
  std::error_code failure;
  fs::remove(partial_ + "/" + kJobFile, failure);
  NIBBLE_RETURN_IF_ERROR(sync_directory(partial_));
  const std::string old = job_.destination + ".old";
  if (fs::exists(job_.destination, failure)) {
    fs::remove_all(old, failure);
    fs::rename(job_.destination, old, failure);
    if (failure) return errno_error(job_.destination, failure.value());
  }
  fs::rename(partial_, job_.destination, failure);
  if (failure) return errno_error(job_.destination, failure.value());
  const std::string parent = fs::absolute(job_.destination).parent_path().string();
  NIBBLE_RETURN_IF_ERROR(sync_directory(parent));
  fs::remove_all(old, failure);
  return {};
}

Result<ExportReport> Exporter::run() {
  NIBBLE_RETURN_IF_ERROR(check_source());
  NIBBLE_ASSIGN_OR_RETURN(scales_, ScaleTable::make(source_, maxima_, job_.recipe, job_.compat));
  NIBBLE_RETURN_IF_ERROR(prepare_directory());
  declare();
  NIBBLE_ASSIGN_OR_RETURN(auto writer, formats::CheckpointWriter::create(partial_, specs_));
  writer_ = std::make_unique<formats::CheckpointWriter>(std::move(writer));
  report_.source_bytes = static_cast<int64_t>(checkpoint_.total_bytes());
  report_.destination_bytes = static_cast<int64_t>(writer_->total_bytes());
  NIBBLE_RETURN_IF_ERROR(write_copies());
  for (int layer = 0; layer < source_.config().num_hidden_layers; ++layer) {
    NIBBLE_RETURN_IF_ERROR(write_layer(layer));
  }
  NIBBLE_RETURN_IF_ERROR(writer_->finish());
  NIBBLE_RETURN_IF_ERROR(write_configuration());
  NIBBLE_RETURN_IF_ERROR(publish());
  progress_(report_.destination_bytes, report_.destination_bytes);
  report_.warnings = scales_.warnings;
  return report_;
}

}  // namespace

Result<ExportReport> export_checkpoint(device::Device& device, model::CheckpointSource& source,
                                       const formats::Checkpoint& checkpoint,
                                       const ActivationMaxima& maxima, const ExportJob& job,
                                       const ExportProgress& progress) {
  return Exporter(device, source, checkpoint, maxima, job, progress).run();
}

}  // namespace nibble::quantize
