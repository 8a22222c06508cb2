// Writes a model's weights as shards of at most 10 GB and their index, the way ModelOpt does.
//
// The tensors are declared up front, which fixes the shards (in the declared order; the tensors of
// one matrix stay together). A shard appears under its name when it is complete; the index comes
// last: kill -9 at any moment leaves whole shards, temporary files, and nothing that looks
// finished. A second run with the same declaration goes on after the finished shards, and inside an
// unfinished one behind the tensors that its caller knows to be written. That it is the same job
// (source, recipe, options) is for the caller to make sure.
#pragma once

#include "base/result.h"
#include "formats/safetensors_writer.h"

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::formats {

constexpr size_t kMaxShardBytes = 10'000'000'000;

/// Move-only. One thread at a time.
class CheckpointWriter {
 public:
  /// `directory` must exist and be ours. Shards found there that hold exactly the tensors they
  /// should are kept; if any is missing, an index left there is removed, since it would lie.
  /// `written`: tensors that were appended and synced in an earlier run (null: none).
  static Result<CheckpointWriter> create(const std::string& directory,
                                         std::vector<TensorSpec> tensors,
                                         size_t max_shard_bytes = kMaxShardBytes,
                                         const WrittenTensors& written = nullptr);

  /// False when the tensor lies in a shard that an earlier run finished: do not append it.
  bool needs(std::string_view name) const;

  /// As SafetensorsWriter::append. Finishes a shard as soon as its last byte is there.
  Result<void> append(std::string_view name, std::span<const std::byte> bytes);

  /// On return everything appended is on the disk.
  Result<void> sync() const;

  /// Writes the index (none for a single shard). Aborts when a tensor is incomplete.
  Result<void> finish();

  size_t num_shards() const { return shards_.size(); }
  size_t total_bytes() const { return total_bytes_; }

 private:
  struct Shard {
    std::string file;  // name inside the directory
    std::vector<TensorSpec> tensors;
    std::optional<SafetensorsWriter> writer;  // while the shard is being written
    bool finished = false;
  };

  CheckpointWriter() = default;
  void plan(std::vector<TensorSpec> tensors, size_t max_shard_bytes);
  Result<void> start(Shard& shard, const WrittenTensors& written);
  static Result<void> complete(Shard& shard);

  std::string directory_;
  std::vector<Shard> shards_;
  std::map<std::string, size_t, std::less<>> shard_of_;
  size_t total_bytes_ = 0;
};

}  // namespace nibble::formats
