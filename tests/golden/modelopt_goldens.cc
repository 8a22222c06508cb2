#include "tests/golden/modelopt_goldens.h"

#include "base/cpu_features.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/thread_pool.h"
#include "device/cpu/cpu_device.h"
#include "formats/checkpoint.h"
#include "formats/hf_config.h"
#include "model/checkpoint_source.h"
#include "quantize/export_config.h"
#include "quantize/exporter.h"
#include "quantize/token_file.h"
#include "tests/golden/modelopt_searches.h"
#include "tests/support/run_calibration.h"
#include "tests/support/temp_folder.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <vector>

namespace nibble::golden {
namespace {

using formats::Checkpoint;
using formats::ScaleMethod;
using quantize::ActivationMaxima;

constexpr double kCalibrationTolerance = 1e-4;

// Cases by name, without the version at its end, and what makes them.
struct CaseRecipe {
  std::string_view name;
  const char* recipe;
  ScaleMethod scales;
};
constexpr std::array kRecipes = std::to_array<CaseRecipe>({
    {"mlp_max", "nvfp4-mlp", ScaleMethod::max},
    {"all_max", "nvfp4-all", ScaleMethod::max},
    {"mlp_w4a16", "nvfp4-mlp-w4a16", ScaleMethod::max},
    {"experts_max_fp8_attn", "nvfp4-mlp-fp8-attn", ScaleMethod::max},
    {"w4a16_fp8_attn", "w4a16-fp8-attn", ScaleMethod::max},
    {"experts_mse_fp8_rest", "nvfp4-experts-mse-fp8", ScaleMethod::mse},
    {"mlp_mse", "nvfp4-mlp", ScaleMethod::mse},
    {"mlp_four_over_six", "nvfp4-mlp", ScaleMethod::four_over_six},
    {"mlp_local_hessian", "nvfp4-mlp", ScaleMethod::hessian},
});

// The source checkpoint and a device to quantize it on, for all cases of a family.
struct Source {
  std::string folder;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<model::CheckpointSource> weights;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<device::Device> device;
  std::optional<Result<quantize::CalibrationResult>> calibration;  // ours, run when first needed

  static Result<Source> open(const std::string& folder) {
    Source out;
    out.folder = folder;
    NIBBLE_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::open(folder));
    out.checkpoint = std::make_unique<Checkpoint>(std::move(checkpoint));
    NIBBLE_ASSIGN_OR_RETURN(const formats::ModelConfig config, formats::load_model_config(folder));
    NIBBLE_ASSIGN_OR_RETURN(out.weights, model::CheckpointSource::open(*out.checkpoint, config));
    const char* forced = std::getenv("NIBBLE_FORCE_ISA");
    NIBBLE_ASSIGN_OR_RETURN(const IsaLevel level,
                            select_isa_level(forced == nullptr ? "" : forced));
    out.pool = std::make_unique<ThreadPool>(2, std::vector<int>());
    out.device = device::make_cpu_device(device::Arithmetic::f32, level, *out.pool);
    return out;
  }

  const Result<quantize::CalibrationResult>& calibrate() {
    if (!calibration) {
      auto sequences = quantize::read_token_file(folder + "/calibration_tokens.json");
      if (sequences.ok()) {
        const TempFolder scratch;
        quantize::CalibrationRequest request;
        request.sequences = std::move(sequences).value();
        request.gathered.moments = true;
        request.scratch = scratch.file("");
        calibration = quantize::calibrate(*device, *weights, request);
      } else {
        calibration = sequences.error();
      }
    }
    return *calibration;
  }
};

struct CaseRun {
  std::string name;  // "modelopt/mlp_max/cpu"
  std::string folder;
  std::string other_folder;  // the case on the other device: configurations may lie there only
  std::string recipe;
  ScaleMethod scales = ScaleMethod::max;
  quantize::Compat compat;
};

struct Row {
  std::string name, dtype, shape, digest;
};

Result<std::vector<Row>> read_rows(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  std::vector<Row> rows;
  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    std::array<std::string, 6> cells;
    std::istringstream words(line);
    for (std::string& cell : cells) std::getline(words, cell, '\t');
    rows.push_back({cells[0], cells[1], cells[2], cells[5]});
  }
  return rows;
}

std::string written_shape(const Shape& shape) {
  std::string out;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    out += (axis == 0 ? "" : "x") + std::to_string(shape[axis]);
  }
  return out.empty() ? "-" : out;
}

bool is_scale(ConstTensorView view) {
  return view.dtype() == DType::f8_e4m3;
}

// Digest as the table writes it. NaN scale bytes are hashed with the sign given: a table from an
// x86 CPU has 0xFF, one from a GPU 0x7F.
std::string digest_of(ConstTensorView view, uint8_t nan_byte) {
  std::vector<std::byte> bytes(view.data(), view.data() + view.bytes());
  if (is_scale(view)) {
    for (std::byte& byte : bytes) {
      if ((byte & std::byte{0x7F}) == std::byte{0x7F}) byte = std::byte{nan_byte};
    }
  }
  if (view.shape().elements() != 1) return sha256_hex(bytes).substr(0, 32);
  std::string out = "=";
  for (auto byte = bytes.rbegin(); byte != bytes.rend(); ++byte) {
    out += fmt::format("{:02x}", std::to_integer<int>(*byte));
  }
  return out;
}

// Codes and block scales of a matrix whose scales were searched: its tensor scale is stored beside
// it.
bool is_searched(const Row& row, const CaseRun& run, const Checkpoint& mine) {
  if (run.scales == ScaleMethod::max) return false;
  for (const std::string_view ending : {".weight", ".weight_scale"}) {
    if (!row.name.ends_with(ending)) continue;
    const std::string stem = row.name.substr(0, row.name.size() - ending.size());
    return mine.find(stem + ".weight_scale_2") != nullptr;
  }
  return false;
}

// "": equal, or searched and of the right form.
std::string compare_tensor(const Row& row, const CaseRun& run, const Checkpoint& mine,
                           const Checkpoint& source) {
  const ConstTensorView view = mine.view(row.name);
  if (view.empty() && mine.find(row.name) == nullptr) return "missing in our export";
  if (dtype_name(view.dtype()) != row.dtype || written_shape(view.shape()) != row.shape) {
    return fmt::format("{} {}, expected {} {}", dtype_name(view.dtype()),
                       written_shape(view.shape()), row.dtype, row.shape);
  }
  if (is_searched(row, run, mine)) return "";
  if (row.digest == "-") {
    const ConstTensorView original = source.view(row.name);
    const bool same = original.bytes() == view.bytes() && !original.empty() &&
                      std::memcmp(original.data(), view.data(), view.bytes()) == 0;
    return same ? "" : "differs from the source, expected its bytes";
  }
  const std::string digest = digest_of(view, 0x7F);
  if (digest == row.digest || digest_of(view, 0xFF) == row.digest) return "";
  return fmt::format("digest {}, expected {}", digest, row.digest);
}

// Experts that ModelOpt could not export: the case has nothing of them.
std::vector<std::string> left_out_experts(const std::string& folder) {
  const auto meta = read_json_file(folder + "/meta.json");
  if (!meta.ok()) return {};
  return meta.value().value("left_out_experts", std::vector<std::string>());
}

void compare_tensors(const CaseRun& run, const Checkpoint& mine, const Checkpoint& source,
                     Report& report) {
  const auto rows = read_rows(run.folder + "/tensors.tsv");
  if (!rows.ok()) {
    report.fail(run.name + "/tensors.tsv", rows.error().message);
    return;
  }
  std::set<std::string, std::less<>> known;
  for (const Row& row : rows.value()) {
    known.insert(row.name);
    const std::string difference = compare_tensor(row, run, mine, source);
    const std::string name = run.name + "/" + row.name;
    if (!difference.empty()) {
      report.fail(name, difference);
    } else if (!is_searched(row, run, mine)) {
      report.pass(name);
    }
  }
  const std::vector<std::string> left_out = left_out_experts(run.folder);
  for (const std::string_view name : mine.names()) {
    const bool expected = std::any_of(left_out.begin(), left_out.end(),
                                      [&](const auto& stem) { return name.starts_with(stem); });
    if (known.contains(name) || expected) continue;
    report.fail(run.name + "/" + std::string(name), "in our export, but not in ModelOpt's");
  }
}

// Path and first difference of two JSON values, "" when equal.
std::string json_difference(const Json& mine, const Json& golden, const std::string& path) {
  if (mine == golden) return "";
  if (mine.is_object() && golden.is_object()) {
    for (const auto& [key, value] : golden.items()) {
      if (!mine.contains(key)) return path + "." + key + ": missing";
      const std::string inner = json_difference(mine.at(key), value, path + "." + key);
      if (!inner.empty()) return inner;
    }
    for (const auto& [key, value] : mine.items()) {
      if (!golden.contains(key)) return path + "." + key + ": not in the golden";
    }
  }
  return fmt::format("{}: {}, expected {}", path, dump_json(mine), dump_json(golden));
}

// Compares one configuration file; `member` narrows it to one key.
void compare_configuration(const CaseRun& run, const std::string& mine_folder,
                           const std::string& file, const char* member, Report& report) {
  const std::string name = run.name + "/" + file;
  std::string golden_path = run.folder + "/" + file;
  if (!file_exists(golden_path)) golden_path = run.other_folder + "/" + file;
  if (!file_exists(golden_path)) {
    report.skip(name, "neither device's folder has it");
    return;
  }
  const auto golden = read_json_file(golden_path);
  const auto mine = read_json_file(mine_folder + "/" + file);
  if (!golden.ok() || !mine.ok()) {
    report.fail(name, (golden.ok() ? mine : golden).error().message);
    return;
  }
  const auto part = [member](const Json& json) {
    return member == nullptr ? json : json.value(member, Json());
  };
  const std::string difference =
      json_difference(part(mine.value()), part(golden.value()), member == nullptr ? "" : member);
  if (difference.empty()) {
    report.pass(name);
  } else {
    report.fail(name, difference);
  }
}

Result<void> quantize_case(const CaseRun& run, Source& source, const std::string& destination) {
  NIBBLE_ASSIGN_OR_RETURN(const ActivationMaxima maxima,
                          ActivationMaxima::read_table(run.folder + "/calibration.tsv"));
  quantize::ExportJob job;
  job.source_directory = source.folder;
  NIBBLE_ASSIGN_OR_RETURN(job.recipe, quantize::Recipe::find(run.recipe));
  job.compat = run.compat;
  job.scales = run.scales;
  if (job.scales == ScaleMethod::hessian) {
    NIBBLE_RETURN_IF_ERROR(source.calibrate());
    job.statistics = [&](int layer) -> Result<quantize::LayerStatistics> {
      quantize::LayerStatistics out;
      out.moments = source.calibrate().value().moments.at(layer);
      return out;
    };
  }
  NIBBLE_RETURN_IF_ERROR(quantize::check_quantizable(*source.weights, job));
  NIBBLE_ASSIGN_OR_RETURN(
      quantize::OutputFolder folder,
      quantize::OutputFolder::open(destination, run.name, quantize::Existing::refuse));
  NIBBLE_ASSIGN_OR_RETURN(
      const quantize::ExportReport written,
      quantize::export_checkpoint(*source.device, *source.weights, *source.checkpoint, maxima, job,
                                  folder, [](const quantize::ExportPosition&) { return true; }));
  NIBBLE_CHECK(written.destination_bytes > 0, "an export without bytes");
  return {};
}

// Both configuration files alone, for a case that has nothing else.
Result<void> write_configuration(const CaseRun& run, const Source& source,
                                 const std::string& destination) {
  NIBBLE_ASSIGN_OR_RETURN(const quantize::Recipe recipe, quantize::Recipe::find(run.recipe));
  const formats::ModelConfig& config = source.weights->config();
  const model::NamePrefix& prefix = source.weights->prefix();
  NIBBLE_ASSIGN_OR_RETURN(const quantize::FormatPlan plan,
                          quantize::FormatPlan::make(config, prefix, recipe, run.compat));
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_file(source.folder + "/config.json"));
  NIBBLE_ASSIGN_OR_RETURN(
      const quantize::ExportConfig made,
      quantize::make_export_config(text, config, prefix, plan, run.compat, true));
  std::filesystem::create_directories(destination);
  NIBBLE_RETURN_IF_ERROR(write_file_atomic(destination + "/config.json", made.config_json));
  return write_file_atomic(destination + "/hf_quant_config.json", made.hf_quant_config);
}

void compare_calibration(const CaseRun& run, Source& source, Report& report) {
  const std::string path = run.folder + "/calibration_f32_forward.tsv";
  if (!file_exists(path)) return;
  const auto golden = ActivationMaxima::read_table(path);
  const auto& mine = source.calibrate();
  if (!golden.ok() || !mine.ok()) {
    report.fail(run.name + "/calibration",
                !golden.ok() ? golden.error().message : mine.error().message);
    return;
  }
  for (const auto& [quantizer, amax] : golden.value().values()) {
    const std::string name = run.name + "/calibration/" + quantizer;
    const std::optional<float> found = mine.value().maxima.find(quantizer);
    const double deviation =
        found ? std::abs(static_cast<double>(*found) - amax) / std::abs(amax) : INFINITY;
    if (deviation <= kCalibrationTolerance) {
      report.pass(name, deviation, "|a-b|/|b|");
    } else {
      report.fail(name, fmt::format("{}, expected {}", found.value_or(NAN), amax), deviation);
    }
  }
}

void compare_configurations(const CaseRun& run, const std::string& mine, Report& report) {
  compare_configuration(run, mine, "config.json", "quantization_config", report);
  compare_configuration(run, mine, "hf_quant_config.json", nullptr, report);
}

void run_case(const CaseRun& run, Source& source, Report& report) {
  const TempFolder temporary;
  const std::string destination = temporary.file("export");
  const bool only_configuration = !file_exists(run.folder + "/tensors.tsv");
  const Result<void> made = only_configuration ? write_configuration(run, source, destination)
                                               : quantize_case(run, source, destination);
  if (!made.ok()) {
    report.fail(run.name + "/export", made.error().message);
    return;
  }
  compare_configurations(run, destination, report);
  if (only_configuration) return;
  const auto mine = Checkpoint::open(destination);
  if (!mine.ok()) {
    report.fail(run.name + "/export", mine.error().message);
    return;
  }
  compare_tensors(run, mine.value(), *source.checkpoint, report);
  compare_calibration(run, source, report);
  if (run.scales == ScaleMethod::max) return;
  compare_searched({run.name, run.folder, run.scales, run.compat.rules}, mine.value(),
                   *source.weights, report);
}

// "0.44" or "0.47": from meta.json, else from the case's name.
std::string version_of(const std::string& folder, bool name_says_044) {
  const auto meta = read_json_file(folder + "/meta.json");
  if (!meta.ok()) return name_says_044 ? "0.44" : "0.47";
  return meta.value().value("modelopt", "").starts_with("0.44") ? "0.44" : "0.47";
}

// A case folder: the runs below it, on each device.
void run_case_folder(const std::string& folder, const std::string& name, Source* source,
                     Report& report) {
  const std::string case_name = name.substr(name.rfind('/') + 1);
  const bool is_044 = case_name.ends_with("_044");
  const std::string base = case_name.substr(0, case_name.size() - (is_044 ? 4 : 0));
  const auto* recipe = std::find_if(kRecipes.begin(), kRecipes.end(),
                                    [&](const CaseRecipe& known) { return known.name == base; });
  for (const char* device : {"cpu", "cuda"}) {
    CaseRun run;
    run.name = name + "/" + device;
    run.folder = folder + "/" + device;
    run.other_folder = folder + "/" + (std::string(device) == "cpu" ? "cuda" : "cpu");
    if (!directory_exists(run.folder)) continue;
    if (base == "mlp_awq_lite") {
      report.skip(run.name, "only for readers: its pre_quant_scale is no part of our recipes");
    } else if (recipe == kRecipes.end()) {
      report.skip(run.name, "no recipe makes a case of this name");
    } else if (source == nullptr) {
      report.fail(run.name, "its source checkpoint could not be opened");
    } else {
      run.recipe = recipe->recipe;
      run.scales = recipe->scales;
      const auto compat =
          quantize::Compat::parse("modelopt-" + version_of(run.folder, is_044) + "-" + device);
      NIBBLE_CHECK(compat.ok(), "version of a case", run.name);
      run.compat = compat.value();
      run_case(run, *source, report);
    }
  }
}

}  // namespace

void run_modelopt_family(const std::string& folder, const std::string& name, Report& report) {
  const auto names = list_directory(folder);
  if (!names.ok()) {
    report.fail(name, names.error().message);
    return;
  }
  const bool has_source = directory_exists(folder + "/source");
  Result<Source> source = Source::open(folder + "/source");
  if (has_source && !source.ok()) report.fail(name + "/source", source.error().message);
  for (const std::string& entry : names.value()) {
    const std::string path = folder + "/" + entry;
    if (!directory_exists(path) || entry == "source" || entry.starts_with(".")) continue;
    if (entry == "tensors") {
      run_modelopt_tensors(path, name + "/tensors", report);
    } else if (!has_source) {
      report.skip(name + "/" + entry, "there is no source/ beside it");
    } else {
      run_case_folder(path, name + "/" + entry, source.ok() ? &source.value() : nullptr, report);
    }
  }
}

}  // namespace nibble::golden
