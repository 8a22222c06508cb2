// What a written checkpoint says about itself: quality_report.json for programs, README.md (a model
// card) for people.
//
// Both are functions of the job and its result alone: no time, no path, so that a continued run
// writes the same bytes.
#pragma once

#include "quantize/exporter.h"

#include <string>

namespace nibble::quantize {

std::string quality_report_json(const ExportJob& job, const ExportReport& report);
/// "KLD 0.00055 +/- 0.00001, 99 % 0.0083, same top 94.5 %, perplexity ratio 1.0002 (...)".
std::string quality_line(const MeasuredQuality& quality);
std::string model_card(const ExportJob& job, const ExportReport& report);

}  // namespace nibble::quantize
