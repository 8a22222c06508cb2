// A file mapped read-only. The pages are shared with the page cache and do not count as our memory.
//
// Move-only; safe to read from any thread. A file that shrinks while mapped, or that its disk
// cannot deliver, raises SIGBUS: install_mapped_file_guard makes an error message of that.
#pragma once

#include "base/result.h"

#include <cstddef>
#include <span>
#include <string>
#include <utility>

namespace nibble {

class MappedFile {
 public:
  static Result<MappedFile> open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }
  /// Gives the pages read so far back to the page cache, so that they are not counted as resident;
  /// they are mapped again when touched. Any thread.
  void release_pages() const;

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::span<const std::byte> bytes_;
};

/// Has the disk begin to read these bytes of a mapped file. A hint: returns at once, cannot fail.
void prefetch_mapped(std::span<const std::byte> bytes);

/// Reading a mapped page that the file no longer has ends the program: from now on with a message
/// that names the file, and with `exit_status`. Call once; other causes of SIGBUS are not touched.
void install_mapped_file_guard(int exit_status);

}  // namespace nibble
