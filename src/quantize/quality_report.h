// What a written checkpoint says about itself: quality_report.json for programs, README.md (a model
// card) for people.
//
// Both are functions of the job and its result alone: no time, no machine, no path, so that a
// continued run writes the same bytes.
#pragma once

#include "quantize/exporter.h"

#include <string>

namespace nibble::quantize {

std::string quality_report_json(const ExportJob& job, const ExportReport& report);
std::string model_card(const ExportJob& job, const ExportReport& report);

}  // namespace nibble::quantize
