#include "quantize/export_files.h"

#include "base/file.h"
#include "quantize/export_config.h"
#include "quantize/quality_report.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::quantize {
namespace {

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

Result<void> copy_files(const std::string& source_directory, const OutputFolder& folder) {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> files, list_directory(source_directory));
  for (const std::string& file : files) {
    if (!travels(file) || !file_exists(source_directory + "/" + file)) continue;
    NIBBLE_ASSIGN_OR_RETURN(const std::string bytes, read_file(source_directory + "/" + file));
    NIBBLE_RETURN_IF_ERROR(write_file_atomic(folder.file(file), bytes));
  }
  return {};
}

}  // namespace

Result<void> write_configuration(const model::CheckpointSource& source,
                                 const formats::Checkpoint& checkpoint, const FormatPlan& plan,
                                 const ExportJob& job, const OutputFolder& folder) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string source_config,
                          read_file(job.source_directory + "/config.json"));
  const std::vector<std::string_view> names = checkpoint.names();
  const bool has_vision = std::any_of(names.begin(), names.end(), [](std::string_view name) {
    return name.starts_with("model.visual.") || name.starts_with("visual.");
  });
  NIBBLE_ASSIGN_OR_RETURN(const ExportConfig config,
                          make_export_config(source_config, source.config(), source.prefix(), plan,
                                             job.compat, has_vision));
  NIBBLE_RETURN_IF_ERROR(write_file_atomic(folder.file("config.json"), config.config_json));
  NIBBLE_RETURN_IF_ERROR(
      write_file_atomic(folder.file("hf_quant_config.json"), config.hf_quant_config));
  return copy_files(job.source_directory, folder);
}

Result<void> write_report(const ExportJob& job, const ExportReport& report,
                          const OutputFolder& folder) {
  NIBBLE_RETURN_IF_ERROR(
      write_file_atomic(folder.file("quality_report.json"), quality_report_json(job, report)));
  return write_file_atomic(folder.file("README.md"), model_card(job, report));
}

}  // namespace nibble::quantize
