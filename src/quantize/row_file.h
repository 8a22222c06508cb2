// RowFile: rows of equal size on disk, written and read by number.
//
// What a calibration keeps for all its tokens (hidden rows, inputs of linear layers) lies in such
// files: read and written, never mapped, so that it costs no resident memory.
#pragma once

#include "base/result.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace nibble::quantize {

/// Move-only. Reads from any thread; writes from one. Errors name the file.
class RowFile {
 public:
  RowFile() = default;
  /// A new, empty file; one that is there is emptied.
  static Result<RowFile> create(const std::string& path, size_t row_bytes);
  /// A new file that vanishes with its last user, whatever happens: its name is removed at once.
  static Result<RowFile> create_unnamed(const std::string& path, size_t row_bytes);
  /// A file of exactly `rows` rows (corrupt when it has another size).
  static Result<RowFile> open(const std::string& path, size_t row_bytes, int64_t rows);

  RowFile(RowFile&& other) noexcept;
  RowFile& operator=(RowFile&& other) noexcept;
  RowFile(const RowFile&) = delete;
  RowFile& operator=(const RowFile&) = delete;
  ~RowFile();

  bool is_open() const { return fd_ >= 0; }
  size_t row_bytes() const { return row_bytes_; }

  /// rows.size(): a multiple of row_bytes(). Rows behind the end make the file longer.
  Result<void> write(int64_t first, std::span<const std::byte> rows);
  /// Fills `rows`; rows the file does not have are an error (corrupt).
  Result<void> read(int64_t first, std::span<std::byte> rows) const;
  /// On return what was written is on the disk.
  Result<void> sync() const;

 private:
  RowFile(std::string path, int fd, size_t row_bytes)
      : path_(std::move(path)), fd_(fd), row_bytes_(row_bytes) {}

  std::string path_;
  int fd_ = -1;
  size_t row_bytes_ = 0;
};

}  // namespace nibble::quantize
