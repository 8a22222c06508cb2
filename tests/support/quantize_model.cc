#include "tests/support/quantize_model.h"

#include "base/cpu_features.h"
#include "base/file.h"
#include "device/cpu/cpu_device.h"
#include "formats/bf16.h"
#include "formats/safetensors_writer.h"

#include <cstring>
#include <filesystem>

namespace nibble::quantize {
void write_test_model(const std::string& folder, const TestTensors& tensors,
                      const std::string& config) {
  std::filesystem::create_directories(folder);
  std::vector<formats::TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.dtype, tensor.shape});
  auto writer = formats::SafetensorsWriter::create(folder + "/model.safetensors", specs);
  NIBBLE_CHECK(writer.ok(), "test model");
  for (const auto& [name, tensor] : tensors) {
    NIBBLE_CHECK(writer.value().append(name, tensor.bytes).ok(), "test model", name);
  }
  NIBBLE_CHECK(writer.value().finish().ok(), "test model");
  NIBBLE_CHECK(write_file_atomic(folder + "/config.json", config).ok(), "test model");
}

void TestTensor::set_bf16(int64_t index, float value) {
  const uint16_t bits = formats::bf16_from_f32(value);
  std::memcpy(bytes.data() + 2 * index, &bits, sizeof bits);
}

TestTensors read_tensors(const std::string& folder) {
  const auto checkpoint = formats::Checkpoint::open(folder);
  NIBBLE_CHECK(checkpoint.ok(), "cannot read", folder);
  TestTensors out;
  for (const std::string_view name : checkpoint.value().names()) {
    const ConstTensorView view = checkpoint.value().view(name);
    out[std::string(name)] = {view.dtype(), view.shape(),
                              std::vector<std::byte>(view.data(), view.data() + view.bytes())};
  }
  return out;
}

TestModel::TestModel(const Edit& edit) : folder_(temporary_.file("source")) {
  const std::string golden = std::string(kGoldens) + "/source";
  TestTensors tensors = read_tensors(golden);
  std::string config = read_file(golden + "/config.json").value();
  if (edit) edit(tensors, config);
  write_test_model(folder_, tensors, config);
  device_ = device::make_cpu_device(device::Arithmetic::f32, detect_isa_level(), pool_);
  checkpoint_ =
      std::make_unique<formats::Checkpoint>(std::move(formats::Checkpoint::open(folder_)).value());
  auto parsed = formats::load_model_config(folder_);
  NIBBLE_CHECK(parsed.ok(), "test model", parsed.ok() ? "" : parsed.error().message);
  auto source = model::CheckpointSource::open(*checkpoint_, parsed.value());
  NIBBLE_CHECK(source.ok(), "test model", source.ok() ? "" : source.error().message);
  source_ = std::move(source).value();
}

ExportJob TestModel::job(const std::string& compat) const {
  ExportJob out;
  out.source_directory = folder_;
  out.recipe = Recipe::find("nvfp4-mlp").value();
  out.compat = Compat::parse(compat).value();
  return out;
}

ActivationMaxima TestModel::golden_maxima() {
  return ActivationMaxima::read_table(std::string(kGoldens) + "/mlp_max/cpu/calibration.tsv")
      .value();
}

Result<ExportReport> TestModel::run(const ExportJob& export_job, const ActivationMaxima& maxima,
                                    const ExportProgress& progress) {
  const auto needs = check_quantizable(*source_, export_job);
  if (!needs.ok()) return needs.error();
  NIBBLE_ASSIGN_OR_RETURN(const std::string text,
                          describe_job(*checkpoint_, export_job, maxima.table()));
  NIBBLE_ASSIGN_OR_RETURN(OutputFolder output_folder,
                          OutputFolder::open(output("export"), text, Existing::refuse));
  return export_checkpoint(*device_, *source_, *checkpoint_, maxima, export_job, output_folder,
                           progress);
}

Result<ExportReport> TestModel::run(const std::string& compat) {
  return run(job(compat), golden_maxima(), uninterrupted);
}

bool uninterrupted(const ExportPosition&) {
  return true;
}

}  // namespace nibble::quantize
