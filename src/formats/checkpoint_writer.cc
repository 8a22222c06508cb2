#include "formats/checkpoint_writer.h"

#include "base/file.h"
#include "formats/checkpoint_index.h"
#include "formats/safetensors_header.h"
#include "formats/safetensors_reader.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace nibble::formats {
namespace {

// Tensors of one matrix share everything before these endings and go into one shard.
std::string_view stem_of(std::string_view name) {
  for (const std::string_view ending :
       {".weight", ".weight_scale", ".weight_scale_2", ".input_scale"}) {
    if (name.ends_with(ending)) return name.substr(0, name.size() - ending.size());
  }
  return name;
}

// Consecutive tensors of one stem, cut so that no shard passes the limit unless one stem does.
std::vector<std::vector<TensorSpec>> cut_into_shards(std::vector<TensorSpec> tensors,
                                                     size_t max_shard_bytes) {
  std::vector<std::vector<TensorSpec>> shards(1);
  size_t shard_bytes = 0;
  for (size_t first = 0; first < tensors.size();) {
    size_t last = first;
    size_t group_bytes = 0;
    for (; last < tensors.size() && stem_of(tensors[last].name) == stem_of(tensors[first].name);
         ++last) {
      group_bytes += tensors[last].bytes();
    }
    if (!shards.back().empty() && shard_bytes + group_bytes > max_shard_bytes) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shard_bytes += group_bytes;
    // stem_of() above looked at names not yet moved from: groups are moved whole.
    for (; first < last; ++first) shards.back().push_back(std::move(tensors[first]));
  }
  return shards;
}

bool none_written(std::string_view) {
  return false;
}

bool holds_exactly(const SafetensorsReader& file, const std::vector<TensorSpec>& tensors) {
  if (file.tensors().size() != tensors.size()) return false;
  for (const TensorSpec& wanted : tensors) {
    const TensorInfo* found = file.find(wanted.name);
    if (found == nullptr || found->dtype != wanted.dtype || !(found->shape == wanted.shape)) {
      return false;
    }
  }
  return true;
}

}  // namespace

void CheckpointWriter::plan(std::vector<TensorSpec> tensors, size_t max_shard_bytes) {
  auto cut = cut_into_shards(std::move(tensors), max_shard_bytes);
  for (size_t s = 0; s < cut.size(); ++s) {
    Shard shard;
    shard.file = shard_file_name(s + 1, cut.size());
    shard.tensors = std::move(cut[s]);
    shards_.push_back(std::move(shard));
  }
}

Result<CheckpointWriter> CheckpointWriter::create(const std::string& directory,
                                                  std::vector<TensorSpec> tensors,
                                                  size_t max_shard_bytes,
                                                  const WrittenTensors& written) {
  if (!directory_exists(directory)) {
    return Error{ErrorCode::not_found, directory + ": no such directory"};
  }
  CheckpointWriter writer;
  writer.directory_ = directory;
  writer.plan(std::move(tensors), max_shard_bytes);
  for (size_t s = 0; s < writer.shards_.size(); ++s) {
    Shard& shard = writer.shards_[s];
    for (const TensorSpec& tensor : shard.tensors) {
      if (!writer.shard_of_.emplace(tensor.name, s).second) {
        return Error{ErrorCode::invalid_argument, fmt::format("{}: tensor {} declared twice",
                                                              directory, quoted_name(tensor.name))};
      }
      writer.total_bytes_ += tensor.bytes();
    }
    const std::string path = directory + "/" + shard.file;
    if (file_exists(path)) {
      const auto existing = SafetensorsReader::open(path);
      shard.finished = existing.ok() && holds_exactly(existing.value(), shard.tensors);
    }
    const bool begun = written && std::any_of(shard.tensors.begin(), shard.tensors.end(),
                                              [&](const auto& t) { return written(t.name); });
    if (begun && !shard.finished) NIBBLE_RETURN_IF_ERROR(writer.start(shard, written));
  }
  const std::string index = directory + "/" + kIndexFile;
  if (!std::all_of(writer.shards_.begin(), writer.shards_.end(),
                   [](const Shard& shard) { return shard.finished; }) &&
      file_exists(index) && ::unlink(index.c_str()) != 0) {
    return errno_error(index, errno);
  }
  return writer;
}

bool CheckpointWriter::needs(std::string_view name) const {
  const auto it = shard_of_.find(name);
  NIBBLE_CHECK(it != shard_of_.end(), "tensor was not declared", std::string(name));
  return !shards_[it->second].finished;
}

Result<void> CheckpointWriter::start(Shard& shard, const WrittenTensors& written) {
  NIBBLE_ASSIGN_OR_RETURN(
      SafetensorsWriter writer,
      SafetensorsWriter::go_on(directory_ + "/" + shard.file, shard.tensors, written));
  shard.writer = std::move(writer);
  return {};
}

Result<void> CheckpointWriter::complete(Shard& shard) {
  NIBBLE_RETURN_IF_ERROR(shard.writer->finish());
  shard.writer.reset();
  shard.finished = true;
  return {};
}

Result<void> CheckpointWriter::append(std::string_view name, std::span<const std::byte> bytes) {
  const auto it = shard_of_.find(name);
  NIBBLE_CHECK(it != shard_of_.end(), "tensor was not declared", std::string(name));
  Shard& shard = shards_[it->second];
  NIBBLE_CHECK(!shard.finished, "the shard is finished", shard.file, std::string(name));
  if (!shard.writer) NIBBLE_RETURN_IF_ERROR(start(shard, none_written));
  NIBBLE_RETURN_IF_ERROR(shard.writer->append(name, bytes));
  return shard.writer->complete() ? complete(shard) : Result<void>();
}

Result<void> CheckpointWriter::sync() const {
  for (const Shard& shard : shards_) {
    if (shard.writer) NIBBLE_RETURN_IF_ERROR(shard.writer->sync());
  }
  return {};
}

Result<void> CheckpointWriter::finish() {
  std::map<std::string, std::string> shard_of;
  for (Shard& shard : shards_) {
    // A shard of empty tensors has waited for no byte.
    if (!shard.finished && !shard.writer) NIBBLE_RETURN_IF_ERROR(start(shard, none_written));
    if (!shard.finished) NIBBLE_RETURN_IF_ERROR(complete(shard));
    for (const TensorSpec& tensor : shard.tensors) shard_of[tensor.name] = shard.file;
  }
  if (shards_.size() == 1) return {};
  return write_file_atomic(directory_ + "/" + kIndexFile,
                           checkpoint_index_json(shard_of, total_bytes_));
}

}  // namespace nibble::formats
