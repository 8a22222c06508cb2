#include "formats/checkpoint_index.h"

#include "base/json.h"
#include "base/problems.h"
#include "formats/safetensors_header.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <utility>

namespace nibble::formats {
namespace {

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

// Collects weight_map; skips everything else in the document.
class IndexHandler : public nlohmann::json_sax<Json> {
 public:
  CheckpointIndex take() { return std::move(index_); }
  bool has_map() const { return has_map_; }
  const std::string& failure() const { return failure_; }

  bool null() override { return other_value("null"); }
  bool boolean(bool) override { return other_value("true or false"); }
  bool number_integer(number_integer_t) override { return other_value("a number"); }
  bool number_unsigned(number_unsigned_t) override { return other_value("a number"); }
  bool number_float(number_float_t, const string_t&) override { return other_value("a number"); }
  bool binary(binary_t&) override { return other_value("binary data"); }

  bool string(string_t& value) override {
    if (!in_map()) return other_value("a string");
    index_.entries.push_back({std::move(key_), file_number(value)});
    return true;
  }
  bool key(string_t& value) override {
    if (depth_ == 1 || in_map()) key_ = std::move(value);
    return true;
  }
  bool start_object(size_t) override {
    if (in_map()) return other_value("an object");
    ++depth_;
    if (depth_ == 2 && in_root_object_ && key_ == kMapKey) {
      if (std::exchange(has_map_, true)) return fail("weight_map appears twice");
      map_open_ = true;
    }
    in_root_object_ = in_root_object_ || depth_ == 1;
    return check_depth();
  }
  bool end_object() override {
    if (in_map()) map_open_ = false;
    --depth_;
    return true;
  }
  bool start_array(size_t) override {
    if (in_map()) return other_value("a list");
    ++depth_;
    return check_depth();
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    return fail(fmt::format("not valid JSON at byte {}", position));
  }

 private:
  static constexpr const char* kMapKey = "weight_map";

  bool in_map() const { return map_open_ && depth_ == 2; }
  bool fail(std::string text) {
    failure_ = std::move(text);
    return false;
  }
  bool check_depth() {
    return depth_ <= kMaxJsonDepth ||
           fail(fmt::format("nested deeper than {} levels", kMaxJsonDepth));
  }
  bool other_value(const char* found) {
    if (!in_map()) return true;
    return fail(fmt::format("weight_map: {}: found {}, expected the name of a file",
                            quoted_name(key_), found));
  }
  size_t file_number(const std::string& file) {
    // Neighbours mostly lie in the same shard.
    if (!index_.files.empty() && index_.files[last_file_] == file) return last_file_;
    const auto [it, is_new] = file_numbers_.emplace(file, index_.files.size());
    if (is_new) index_.files.push_back(file);
    return last_file_ = it->second;
  }

  CheckpointIndex index_;
  std::map<std::string, size_t> file_numbers_;
  size_t last_file_ = 0;
  std::string key_;
  std::string failure_;
  int depth_ = 0;
  bool in_root_object_ = false;
  bool has_map_ = false;
  bool map_open_ = false;
};

}  // namespace

Result<CheckpointIndex> parse_checkpoint_index(std::string_view text, const std::string& what) {
  IndexHandler handler;
  bool finished = false;
  try {
    finished = Json::sax_parse(text.begin(), text.end(), &handler);
  } catch (const nlohmann::json::exception& e) {
    return Error{ErrorCode::corrupt, fmt::format("{}: not valid JSON: {}", what, e.what())};
  }
  if (!finished) return Error{ErrorCode::corrupt, what + ": " + handler.failure()};
  if (!handler.has_map()) {
    return Error{ErrorCode::corrupt, what + ": weight_map: missing, expected an object"};
  }
  CheckpointIndex index = handler.take();
  std::sort(index.entries.begin(), index.entries.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  Problems problems;
  for (size_t i = 1; i < index.entries.size(); ++i) {
    if (index.entries[i].name != index.entries[i - 1].name) continue;
    problems.add(fmt::format("weight_map: {} appears twice", quoted_name(index.entries[i].name)));
  }
  for (const std::string& file : index.files) {
    if (is_plain_file_name(file)) continue;
    problems.add(fmt::format("weight_map: found {}, expected the name of a file in the directory",
                             quoted_name(file)));
  }
  if (!problems.empty()) return problems.error(ErrorCode::corrupt, what);
  return index;
}

std::string checkpoint_index_json(const std::map<std::string, std::string>& shard_of,
                                  size_t total_bytes) {
  Json json;
  json["metadata"]["total_size"] = total_bytes;
  json["weight_map"] = Json::object();
  for (const auto& [name, shard] : shard_of) json["weight_map"][name] = shard;
  return dump_json(json, 2) + "\n";
}

std::string shard_file_name(size_t number, size_t count) {
  if (count == 1) return kSingleFile;
  return fmt::format("model-{:05}-of-{:05}.safetensors", number, count);
}

}  // namespace nibble::formats
