#include "quantize/run_state.h"

#include "base/file.h"
#include "base/json.h"

#include <nlohmann/json.hpp>

namespace nibble::quantize {

Result<RunState> RunState::read(const std::string& path) {
  RunState out;
  if (!file_exists(path)) return out;
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  NIBBLE_ASSIGN_OR_RETURN(const Json json, parse_json(text, path));
  NIBBLE_ASSIGN_OR_RETURN(out.units_done, json_int(json, "units_done", path));
  NIBBLE_ASSIGN_OR_RETURN(const std::string table, json_string(json, "maxima", path));
  NIBBLE_ASSIGN_OR_RETURN(out.maxima, ActivationMaxima::parse_table(table, path));
  const Json seen = json.value("experts_seen", Json::array());
  for (const Json& count : seen) {
    if (!count.is_number_integer()) {
      return Error{ErrorCode::corrupt, path + ": experts_seen: expected numbers"};
    }
    out.experts_seen.push_back(count.get<int64_t>());
  }
  const Json measured = json.value("errors", Json::object());
  for (const auto& [stem, error] : measured.items()) {
    if (!error.is_array() || error.size() != 2 || !error[0].is_number() || !error[1].is_number()) {
      return Error{ErrorCode::corrupt, path + ": errors: " + stem + ": expected two numbers"};
    }
    out.errors.add(stem, {error[0].get<double>(), error[1].get<double>()});
  }
  return out;
}

Result<void> RunState::write(const std::string& path) const {
  Json errors_json = Json::object();
  for (const auto& [stem, error] : errors.values()) {
    errors_json[stem] = Json::array({error.difference, error.magnitude});
  }
  const Json json = {{"units_done", units_done},
                     {"maxima", maxima.table()},
                     {"experts_seen", experts_seen},
                     {"errors", std::move(errors_json)}};
  return write_file_atomic(path, dump_json(json));
}

}  // namespace nibble::quantize
