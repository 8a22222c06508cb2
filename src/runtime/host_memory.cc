// Files that do not exist (no control groups, other version) set no limit.
#include "runtime/host_memory.h"

#include "base/file.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <string_view>

namespace nibble::runtime {

namespace {

constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();

std::optional<size_t> leading_number(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return std::nullopt;
  size_t value = 0;
  const char* end = text.data() + text.size();
  if (std::from_chars(text.data() + begin, end, value).ec != std::errc()) return std::nullopt;
  return value;
}

/// The number after `key` at the start of a line.
std::optional<size_t> number_after(const std::string& text, std::string_view key) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    if (line.substr(0, key.size()) == key) return leading_number(line.substr(key.size()));
    begin = end + 1;
  }
  return std::nullopt;
}

std::optional<size_t> number_in_file(const std::string& path) {
  const Result<std::string> text = read_file(path);
  return text.ok() ? leading_number(text.value()) : std::nullopt;
}

/// What is left below one group's limit.
size_t group_headroom(const std::string& limit_file, const std::string& usage_file,
                      const std::string& stat_file, std::string_view inactive_key) {
  const std::optional<size_t> limit = number_in_file(limit_file);  // "max" is no number
  if (!limit) return kNoLimit;
  size_t used = number_in_file(usage_file).value_or(0);
  const Result<std::string> stat = read_file(stat_file);
  if (stat.ok()) used -= std::min(used, number_after(stat.value(), inactive_key).value_or(0));
  return *limit - std::min(*limit, used);
}

/// Path of the process's version 2 group ("/" in a namespace of its own), from "0::/path".
std::string group_path(const HostMemoryPaths& paths) {
  const Result<std::string> text = read_file(paths.proc + "/self/cgroup");
  if (!text.ok()) return "/";
  const size_t at = text.value().find("0::");
  if (at == std::string::npos) return "/";
  const size_t begin = at + 3;
  return text.value().substr(begin, text.value().find('\n', begin) - begin);
}

size_t cgroup_headroom(const HostMemoryPaths& paths) {
  const std::string v1 = paths.cgroup + "/memory";
  size_t headroom = group_headroom(v1 + "/memory.limit_in_bytes", v1 + "/memory.usage_in_bytes",
                                   v1 + "/memory.stat", "total_inactive_file");
  for (std::string path = group_path(paths); true; path.resize(path.rfind('/'))) {
    const std::string group = paths.cgroup + path;
    headroom = std::min(headroom, group_headroom(group + "/memory.max", group + "/memory.current",
                                                 group + "/memory.stat", "inactive_file"));
    if (path.rfind('/') == std::string::npos) return headroom;
  }
}

}  // namespace

Result<size_t> available_memory_bytes(const HostMemoryPaths& paths) {
  const std::string file = paths.proc + "/meminfo";
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_file(file));
  const std::optional<size_t> kib = number_after(text, "MemAvailable:");
  if (!kib) return Error{ErrorCode::unsupported, file + ": no MemAvailable; give --memory"};
  return std::min(*kib * 1024, cgroup_headroom(paths));
}

size_t default_memory_ceiling(size_t available_bytes) {
  constexpr size_t kLeastMargin = size_t{256} << 20;
  const size_t margin = std::max(kLeastMargin, available_bytes / 10);
  return available_bytes - std::min(available_bytes, margin);
}

}  // namespace nibble::runtime
