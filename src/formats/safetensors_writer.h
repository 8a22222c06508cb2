// Writes one safetensors file whose tensors are known beforehand; their bytes may come in any
// order.
//
// The file grows under a temporary name in the target's folder and gets its own name only when it
// is complete and synced (design.md 3.14): a file with the final name is a finished file. Data is
// laid out by falling element size, then name, so that every tensor is aligned. Every tensor has
// its place from the start, so a later run can go on with those that are missing.
#pragma once

#include "base/result.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

#include <cstddef>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::formats {

/// A tensor as it is to stand in the file.
struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;

  size_t bytes() const { return static_cast<size_t>(shape.elements()) * dtype_bytes(dtype); }
};

/// Which tensors an earlier run has written whole and synced.
using WrittenTensors = std::function<bool(std::string_view name)>;

/// Move-only. One thread at a time. Dropped before finish(), it removes its temporary file, unless
/// it came from go_on().
class SafetensorsWriter {
 public:
  /// Creates `path`.tmp with the header. Repeated names are an error. A temporary file left by an
  /// earlier run is overwritten.
  static Result<SafetensorsWriter> create(const std::string& path,
                                          const std::vector<TensorSpec>& tensors);

  /// The same for a file that may be made in several runs: the temporary file stays when the writer
  /// is dropped. `written` tensors are taken from the file an earlier run left; that file being
  /// gone or another one is an error (corrupt).
  static Result<SafetensorsWriter> go_on(const std::string& path,
                                         const std::vector<TensorSpec>& tensors,
                                         const WrittenTensors& written);

  SafetensorsWriter(SafetensorsWriter&& other) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&& other) noexcept;
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;
  ~SafetensorsWriter();

  /// Writes the next bytes of a tensor: pieces of one tensor in order, tensors in any order. An
  /// unknown name or too many bytes abort (our bug); a full disk is an Error.
  Result<void> append(std::string_view name, std::span<const std::byte> bytes);

  /// True when every tensor has all its bytes.
  bool complete() const { return missing_bytes_ == 0; }

  /// On return everything appended is on the disk.
  Result<void> sync() const;

  /// Syncs and renames to the final name. Aborts when not complete().
  Result<void> finish();

 private:
  struct Slot {
    size_t offset;  // where the next byte goes, from the start of the file
    size_t missing_bytes;
  };

  SafetensorsWriter(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  Result<void> place(const std::vector<const TensorSpec*>& order, size_t data_offset);
  Result<void> write_header(const std::string& header) const;
  void abandon();

  std::string path_;
  int fd_ = -1;
  bool keeps_temporary_ = false;
  std::map<std::string, Slot, std::less<>> slots_;
  size_t missing_bytes_ = 0;
};

}  // namespace nibble::formats
