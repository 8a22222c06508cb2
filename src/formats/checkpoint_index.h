// model.safetensors.index.json: which shard holds which tensor.
//
// Shared by the reader (checkpoint.h) and the writer (checkpoint_writer.h).
#pragma once

#include "base/result.h"

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::formats {

inline constexpr const char* kIndexFile = "model.safetensors.index.json";
inline constexpr const char* kSingleFile = "model.safetensors";

struct CheckpointIndex {
  struct Entry {
    std::string name;
    size_t file;  // index into files
  };
  std::vector<Entry> entries;  // sorted by name
  std::vector<std::string> files;  // each once
};

/// Parses the index. Shard names must be plain file names: no path leads out of the directory.
/// Streaming, because 125,000 entries are usual.
Result<CheckpointIndex> parse_checkpoint_index(std::string_view text, const std::string& what);

/// The index as JSON text: tensor name -> file name, and the size of all tensors.
std::string checkpoint_index_json(const std::map<std::string, std::string>& shard_of,
                                  size_t total_bytes);

/// "model-00002-of-00003.safetensors"; "model.safetensors" when there is one shard.
std::string shard_file_name(size_t number, size_t count);

}  // namespace nibble::formats
