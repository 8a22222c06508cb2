#include "quantize/token_file.h"

#include "base/json.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <limits>

namespace nibble::quantize {
namespace {

Result<std::vector<int32_t>> sequence_of(const Json& list, const std::string& what) {
  if (!list.is_array() || list.empty()) {
    return Error{ErrorCode::invalid_argument, what + ": expected an array of token ids"};
  }
  std::vector<int32_t> out;
  for (const Json& item : list) {
    if (!item.is_number_integer() || item < 0 || item > std::numeric_limits<int32_t>::max()) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{}: element {} is {}, expected a token id", what, out.size(),
                               dump_json(item))};
    }
    out.push_back(item.get<int32_t>());
  }
  return out;
}

}  // namespace

Result<std::vector<std::vector<int32_t>>> read_token_file(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const Json file, read_json_file(path));
  if (!file.is_array() || file.empty()) {
    return Error{ErrorCode::invalid_argument,
                 path + ": expected an array of sequences, each an array of token ids"};
  }
  std::vector<std::vector<int32_t>> out;
  for (const Json& list : file) {
    NIBBLE_ASSIGN_OR_RETURN(std::vector<int32_t> sequence,
                            sequence_of(list, fmt::format("{}: sequence {}", path, out.size())));
    out.push_back(std::move(sequence));
  }
  return out;
}

}  // namespace nibble::quantize
