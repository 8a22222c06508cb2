#include "formats/checkpoint.h"

#include "base/file.h"
#include "base/problems.h"
#include "formats/checkpoint_index.h"
#include "formats/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <optional>
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
  plan.files = index.files;
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

std::string place_in_index(const CheckpointIndex& index, const std::string& name) {
  const auto it =
      std::lower_bound(index.entries.begin(), index.entries.end(), name,
                       [](const auto& entry, const auto& wanted) { return entry.name < wanted; });
  if (it == index.entries.end() || it->name != name) return "the index does not have it";
  return "the index places it in " + index.files[it->file];
}

// Both directions: tensors of the index that a shard lacks, tensors of shards that the index has
// not or elsewhere. `shards[f]` is the file index.files[f], or null when it could not be opened.
void compare_with_index(const CheckpointIndex& index,
                        const std::vector<const SafetensorsReader*>& shards, Problems& problems) {
  // Entries and tensors are sorted by name, so one walk over the entries meets every tensor.
  std::vector<size_t> next(shards.size(), 0);
  const auto report_unplaced = [&](size_t file, const std::string* up_to) {
    const auto& tensors = shards[file]->tensors();
    for (; next[file] < tensors.size(); ++next[file]) {
      const std::string& name = tensors[next[file]].name;
      if (up_to != nullptr && name >= *up_to) return;
      problems.add(fmt::format("tensor {}: found in {}, but {}", quoted_name(name),
                               index.files[file], place_in_index(index, name)));
    }
  };
  for (const auto& [name, file] : index.entries) {
    if (shards[file] == nullptr) continue;
    report_unplaced(file, &name);
    const auto& tensors = shards[file]->tensors();
    if (next[file] < tensors.size() && tensors[next[file]].name == name) {
      ++next[file];
    } else {
      problems.add(fmt::format("tensor {}: the index places it in {}, which does not hold it",
                               quoted_name(name), index.files[file]));
    }
  }
  for (size_t file = 0; file < shards.size(); ++file) {
    if (shards[file] != nullptr) report_unplaced(file, nullptr);
  }
}

// Opens what can be opened, in the plan's order. `code` becomes what the last failure was.
std::vector<std::optional<SafetensorsReader>> open_shards(const std::string& directory,
                                                          const Plan& plan, Problems& problems,
                                                          ErrorCode& code) {
  std::vector<std::optional<SafetensorsReader>> shards(plan.files.size());
  for (size_t f = 0; f < plan.files.size(); ++f) {
    auto shard = SafetensorsReader::open(directory + "/" + plan.files[f]);
    if (shard.ok()) {
      shards[f] = std::move(shard).value();
      continue;
    }
    std::string tensors;
    if (plan.index) {
      const auto held = [f](const auto& entry) { return entry.file == f; };
      const auto& entries = plan.index->entries;
      tensors = fmt::format(" (the index places {} tensors in it)",
                            std::count_if(entries.begin(), entries.end(), held));
    }
    problems.add(shard.error().message + tensors);
    code = shard.error().code;
  }
  return shards;
}

void report_repeated(const std::vector<SafetensorsReader>& shards, const std::string& name,
                     size_t first, size_t second, Problems& problems) {
  problems.add(fmt::format("tensor {}: found in {} and in {}", quoted_name(name),
                           base_name(shards[first].path()), base_name(shards[second].path())));
}

}  // namespace

std::vector<Checkpoint::Entry> Checkpoint::merge(const std::vector<SafetensorsReader>& shards) {
  const auto by_name = [](const Entry& a, const Entry& b) {
    return a.tensor->name < b.tensor->name;
  };
  std::vector<Entry> entries;
  for (size_t s = 0; s < shards.size(); ++s) {
    const auto old_size = static_cast<std::ptrdiff_t>(entries.size());
    for (const TensorInfo& tensor : shards[s].tensors()) entries.push_back({&tensor, s});
    std::inplace_merge(entries.begin(), entries.begin() + old_size, entries.end(), by_name);
  }
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
  auto opened = open_shards(directory, plan, problems, code);
  if (plan.index) {
    std::vector<const SafetensorsReader*> by_file;
    for (const auto& shard : opened) by_file.push_back(shard ? &*shard : nullptr);
    compare_with_index(*plan.index, by_file, problems);
  }
  std::vector<SafetensorsReader> shards;
  for (auto& shard : opened) {
    if (shard) shards.push_back(std::move(*shard));
  }
  std::vector<Entry> entries = merge(shards);
  // With an index, the comparison has already named every tensor that lies in a second place.
  for (size_t i = 1; i < entries.size() && !plan.index; ++i) {
    if (entries[i].tensor->name != entries[i - 1].tensor->name) continue;
    report_repeated(shards, entries[i].tensor->name, entries[i - 1].shard, entries[i].shard,
                    problems);
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

void Checkpoint::release_pages() const {
  for (const SafetensorsReader& shard : shards_) shard.release_pages();
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
