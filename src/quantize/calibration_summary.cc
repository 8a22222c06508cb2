#include "quantize/calibration_summary.h"

#include "base/json.h"

#include <nlohmann/json.hpp>

#include <numeric>

namespace nibble::quantize {

int64_t CalibrationSummary::seen() const {
  return std::accumulate(experts_seen.begin(), experts_seen.end(), int64_t{0});
}

std::string CalibrationSummary::to_json() const {
  return dump_json(OrderedJson{{"data", data},
                               {"tokens", tokens},
                               {"experts_per_layer", experts_per_layer},
                               {"experts_seen", experts_seen}});
}

Result<CalibrationSummary> CalibrationSummary::parse(const std::string& text,
                                                     const std::string& what) {
  CalibrationSummary out;
  NIBBLE_ASSIGN_OR_RETURN(const Json json, parse_json(text, what));
  NIBBLE_ASSIGN_OR_RETURN(out.data, json_string(json, "data", what));
  NIBBLE_ASSIGN_OR_RETURN(out.tokens, json_int(json, "tokens", what));
  NIBBLE_ASSIGN_OR_RETURN(out.experts_per_layer, json_int(json, "experts_per_layer", what));
  const Json seen = json.value("experts_seen", Json());
  for (const Json& count : seen) {
    if (!count.is_number_integer()) {
      return Error{ErrorCode::corrupt, what + ": experts_seen: expected numbers"};
    }
    out.experts_seen.push_back(count.get<int64_t>());
  }
  return out;
}

}  // namespace nibble::quantize
