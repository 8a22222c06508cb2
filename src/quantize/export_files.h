// What lies beside the weights of a quantized checkpoint: its configuration, the report, the model
// card, and the files of the source that travel unchanged.
#pragma once

#include "quantize/exporter.h"

namespace nibble::quantize {

/// config.json, hf_quant_config.json and what travels: all that a loader needs beside the weights.
Result<void> write_configuration(const model::CheckpointSource& source,
                                 const formats::Checkpoint& checkpoint, const FormatPlan& plan,
                                 const ExportJob& job, const OutputFolder& folder);

/// quality_report.json and README.md.
Result<void> write_report(const ExportJob& job, const ExportReport& report,
                          const OutputFolder& folder);

}  // namespace nibble::quantize
