// A model directory's weights: all shards mapped, one index from tensor name to bytes.
//
// Reads model.safetensors.index.json, else model.safetensors, else every *.safetensors there. Names
// are the files' own; what they mean is model/'s business. The index and the shards must agree
// exactly: a tensor in neither, one or two of the wrong places is refused, all cases listed at
// once.
#pragma once

#include "base/result.h"
#include "formats/safetensors_reader.h"
#include "tensor/tensor_view.h"

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::formats {

/// Move-only; views stay valid across moves and die with the checkpoint. Reading: any thread.
class Checkpoint {
 public:
  /// A directory, or the path of one .safetensors file.
  static Result<Checkpoint> open(const std::string& path);

  /// As given to open().
  const std::string& path() const { return path_; }

  /// nullptr when there is no such tensor.
  const TensorInfo* find(std::string_view name) const;
  /// An empty view when there is no such tensor.
  ConstTensorView view(std::string_view name) const;
  /// Path of the shard that holds the tensor, "" when there is none: for messages.
  std::string shard_path(std::string_view name) const;

  /// Sorted by name.
  std::vector<std::string_view> names() const;
  size_t num_tensors() const { return entries_.size(); }
  /// Bytes of all tensors, without headers.
  size_t total_bytes() const;
  const std::vector<SafetensorsReader>& shards() const { return shards_; }
  /// For readers that walk through a model once: views stay valid, the pages behind them are let go
  /// (MappedFile::release_pages).
  void release_pages() const;

 private:
  struct Entry {
    const TensorInfo* tensor;  // owned by the shard
    size_t shard;
  };

  Checkpoint(std::string path, std::vector<SafetensorsReader> shards, std::vector<Entry> entries)
      : path_(std::move(path)), shards_(std::move(shards)), entries_(std::move(entries)) {}
  const Entry* find_entry(std::string_view name) const;
  static std::vector<Entry> merge(const std::vector<SafetensorsReader>& shards);

  std::string path_;
  std::vector<SafetensorsReader> shards_;
  std::vector<Entry> entries_;  // sorted by name
};

}  // namespace nibble::formats
