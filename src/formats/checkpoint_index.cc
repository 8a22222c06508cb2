#include "formats/checkpoint_index.h"

#include "base/json.h"
#include "base/problems.h"
#include "formats/safetensors_header.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace nibble::formats {
namespace {

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

}  // namespace

Result<CheckpointIndex> parse_checkpoint_index(std::string_view text, const std::string& what) {
  NIBBLE_ASSIGN_OR_RETURN(const Json json, parse_json(text, what));
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || map == json.end() || !map->is_object()) {
    return Error{ErrorCode::corrupt, what + ": weight_map: missing, expected an object"};
  }
  CheckpointIndex index;
  Problems problems;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string() || !is_plain_file_name(shard.get_ref<const std::string&>())) {
      problems.add(fmt::format("weight_map: {}: found {}, expected the name of a file",
                               quoted_name(name), dump_json(shard).substr(0, 80)));
    } else {
      index.shard_of.emplace_hint(index.shard_of.end(), name, shard.get<std::string>());
    }
  }
  if (!problems.empty()) return problems.error(ErrorCode::corrupt, what);
  return index;
}

std::string checkpoint_index_json(const CheckpointIndex& index, size_t total_bytes) {
  Json json;
  json["metadata"]["total_size"] = total_bytes;
  json["weight_map"] = Json::object();
  for (const auto& [name, shard] : index.shard_of) json["weight_map"][name] = shard;
  return dump_json(json, 2) + "\n";
}

std::string shard_file_name(size_t number, size_t count) {
  if (count == 1) return kSingleFile;
  return fmt::format("model-{:05}-of-{:05}.safetensors", number, count);
}

}  // namespace nibble::formats
