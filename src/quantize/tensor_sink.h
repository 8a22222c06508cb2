// TensorSink: where finished tensors go: the shards, and the count of bytes that progress is told
// by.
#pragma once

#include "formats/checkpoint_writer.h"

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>

namespace nibble::quantize {

/// One thread.
class TensorSink {
 public:
  /// progress: called with the bytes done; false stops (ErrorCode::cancelled).
  TensorSink(formats::CheckpointWriter writer, std::function<bool(int64_t bytes)> progress)
      : writer_(std::move(writer)), progress_(std::move(progress)) {}

  /// A whole tensor. One that lies in a finished shard is only counted.
  Result<void> append(const std::string& name, std::span<const std::byte> bytes);
  Result<void> append(const std::string& name, float value) {
    return append(name, std::as_bytes(std::span(&value, 1)));
  }
  /// False when an earlier run finished the tensor's shard.
  bool needs(const std::string& name) const { return writer_.needs(name); }
  /// Counts bytes that an earlier run wrote.
  void skip(int64_t bytes) { done_bytes_ += bytes; }
  /// Tells progress; an error when it wants to stop.
  Result<void> poll() const;

  Result<void> sync() const { return writer_.sync(); }
  Result<void> finish() { return writer_.finish(); }
  int64_t done_bytes() const { return done_bytes_; }
  int64_t total_bytes() const { return static_cast<int64_t>(writer_.total_bytes()); }

 private:
  formats::CheckpointWriter writer_;
  std::function<bool(int64_t)> progress_;
  int64_t done_bytes_ = 0;
};

}  // namespace nibble::quantize
