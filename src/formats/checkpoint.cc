#include "formats/checkpoint.h"

#include "base/file.h"
#include "base/problems.h"
#include "formats/checkpoint_index.h"
#include "formats/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

namespace nibble::formats {
namespace {

// The files to open, and the index when there is one.
struct Plan {
  std::vector<std::string> files;  // names inside the directory
  std::optional<CheckpointIndex> index;
};

Result<Plan> plan_from_index(const std::string& directory) {
  const std::string path = directory + "/" + kIndexFile;
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  NIBBLE_ASSIGN_OR_RETURN(CheckpointIndex index, parse_checkpoint_index(text, path));
  Plan plan;
  for (const auto& [name, shard] : index.shard_of) plan.files.push_back(shard);
  std::sort(plan.files.begin(), plan.files.end());
  plan.files.erase(std::unique(plan.files.begin(), plan.files.end()), plan.files.end());
  if (plan.files.empty()) return Error{ErrorCode::corrupt, path + ": weight_map is empty"};
  plan.index = std::move(index);
  return plan;
}

bool is_numbered_shard(std::string_view name) {
  return name.find("-of-") != std::string_view::npos;
}

Result<Plan> make_plan(const std::string& directory) {
  if (!directory_exists(directory)) {
    return Error{ErrorCode::not_found, directory + ": no such directory"};
  }
  if (file_exists(directory + "/" + kIndexFile)) return plan_from_index(directory);
  Plan plan;
  if (file_exists(directory + "/" + kSingleFile)) {
    plan.files.push_back(kSingleFile);
    return plan;
  }
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(directory));
  for (const std::string& name : names) {
    if (name.ends_with(".safetensors")) plan.files.push_back(name);
  }
  if (plan.files.empty()) {
    return Error{ErrorCode::not_found, fmt::format("{}: no {}, no {}, no other .safetensors file",
                                                   directory, kIndexFile, kSingleFile)};
  }
  // The index is written last, so numbered shards without one are an unfinished copy or download.
  if (std::any_of(plan.files.begin(), plan.files.end(), is_numbered_shard)) {
    return Error{ErrorCode::not_found,
                 fmt::format("{}: {} is missing, although there are numbered shards ({})",
                             directory, kIndexFile, plan.files.front())};
  }
  return plan;
}

std::string base_name(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

// Both directions: tensors of the index that a shard lacks, tensors of shards the index lacks.
void compare_with_index(const CheckpointIndex& index, const std::vector<SafetensorsReader>& shards,
                        Problems& problems) {
  std::map<std::string, const SafetensorsReader*> by_name;
  for (const SafetensorsReader& shard : shards) by_name[base_name(shard.path())] = &shard;
  for (const auto& [name, file] : index.shard_of) {
    const auto it = by_name.find(file);
    if (it != by_name.end() && it->second->find(name) == nullptr) {
      problems.add(fmt::format("tensor {}: the index places it in {}, which does not hold it",
                               quoted_name(name), file));
    }
  }
  for (const SafetensorsReader& shard : shards) {
    for (const TensorInfo& tensor : shard.tensors()) {
      if (index.shard_of.find(tensor.name) == index.shard_of.end()) {
        problems.add(fmt::format("tensor {}: found in {}, but not in the index",
                                 quoted_name(tensor.name), base_name(shard.path())));
      }
    }
  }
}

// Opens what can be opened. `code` becomes what the last failure was.
std::vector<SafetensorsReader> open_shards(const std::string& directory, const Plan& plan,
                                           Problems& problems, ErrorCode& code) {
  std::vector<SafetensorsReader> shards;
  for (const std::string& file : plan.files) {
    auto shard = SafetensorsReader::open(directory + "/" + file);
    if (shard.ok()) {
      shards.push_back(std::move(shard).value());
      continue;
    }
    const auto held = [&](const auto& entry) { return entry.second == file; };
    const std::string tensors = plan.index
                                    ? fmt::format(" (the index places {} tensors in it)",
                                                  std::count_if(plan.index->shard_of.begin(),
                                                                plan.index->shard_of.end(), held))
                                    : "";
    problems.add(shard.error().message + tensors);
    code = shard.error().code;
  }
  return shards;
}

}  // namespace

std::vector<Checkpoint::Entry> Checkpoint::merge(const std::vector<SafetensorsReader>& shards) {
  std::vector<Entry> entries;
  for (size_t s = 0; s < shards.size(); ++s) {
    for (const TensorInfo& tensor : shards[s].tensors()) entries.push_back({&tensor, s});
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.tensor->name, a.shard) < std::tie(b.tensor->name, b.shard);
  });
  return entries;
}

Result<Checkpoint> Checkpoint::open(const std::string& path) {
  Plan plan;
  std::string directory = path;
  if (file_exists(path)) {
    const size_t slash = path.rfind('/');
    directory = slash == std::string::npos ? "." : path.substr(0, slash);
    plan.files.push_back(base_name(path));
  } else {
    NIBBLE_ASSIGN_OR_RETURN(plan, make_plan(path));
  }
  Problems problems;
  ErrorCode code = ErrorCode::corrupt;
  std::vector<SafetensorsReader> shards = open_shards(directory, plan, problems, code);
  if (plan.index) compare_with_index(*plan.index, shards, problems);
  std::vector<Entry> entries = merge(shards);
  for (size_t i = 1; i < entries.size(); ++i) {
    if (entries[i].tensor->name != entries[i - 1].tensor->name) continue;
    problems.add(fmt::format("tensor {}: found in {} and in {}",
                             quoted_name(entries[i].tensor->name),
                             base_name(shards[entries[i - 1].shard].path()),
                             base_name(shards[entries[i].shard].path())));
  }
  if (!problems.empty()) return problems.error(code, path);
  return Checkpoint(path, std::move(shards), std::move(entries));
}

const Checkpoint::Entry* Checkpoint::find_entry(std::string_view name) const {
  const auto it = std::lower_bound(
      entries_.begin(), entries_.end(), name,
      [](const Entry& entry, std::string_view wanted) { return entry.tensor->name < wanted; });
  return it != entries_.end() && it->tensor->name == name ? &*it : nullptr;
}

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const Entry* entry = find_entry(name);
  return entry == nullptr ? nullptr : entry->tensor;
}

ConstTensorView Checkpoint::view(std::string_view name) const {
  const Entry* entry = find_entry(name);
  return entry == nullptr ? ConstTensorView() : shards_[entry->shard].view(*entry->tensor);
}

std::string Checkpoint::shard_path(std::string_view name) const {
  const Entry* entry = find_entry(name);
  return entry == nullptr ? "" : shards_[entry->shard].path();
}

std::vector<std::string_view> Checkpoint::names() const {
  std::vector<std::string_view> names;
  names.reserve(entries_.size());
  for (const Entry& entry : entries_) names.push_back(entry.tensor->name);
  return names;
}

size_t Checkpoint::total_bytes() const {
  size_t bytes = 0;
  for (const Entry& entry : entries_) bytes += entry.tensor->bytes;
  return bytes;
}

}  // namespace nibble::formats
