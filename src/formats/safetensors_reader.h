// Reads one safetensors file: 8 bytes header length (little-endian), JSON header, tensor data.
//
// The file is mapped, tensor bytes are views of the mapping. The header comes from a stranger:
// every number is checked before it is used, and a file with holes, overlaps, repeated names or
// sizes that do not fit is refused with a list of all that is wrong. First step of a weight's life;
// the shards of a model are put together in checkpoint.h.
#pragma once

#include "base/mapped_file.h"
#include "base/result.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"
#include "tensor/tensor_view.h"

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::formats {

struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  size_t offset = 0;  // from the start of the file
  size_t bytes = 0;
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // sorted by name
  std::map<std::string, std::string> metadata;
};

/// Largest header accepted, in bytes: the reference implementation's limit.
constexpr size_t kMaxSafetensorsHeader = 100'000'000;

/// Parses and checks the header of a whole file given as bytes. `what` names it in errors.
/// On success tensors lie back to back, inside the file, aligned to their element size.
Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file,
                                                   const std::string& what);

/// One mapped file. Move-only; views stay valid across moves and die with the reader. Any thread.
class SafetensorsReader {
 public:
  static Result<SafetensorsReader> open(const std::string& path);

  const std::string& path() const { return path_; }
  /// Sorted by name.
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }

  /// nullptr when there is no such tensor.
  const TensorInfo* find(std::string_view name) const;

  /// `tensor` must come from this reader.
  std::span<const std::byte> bytes(const TensorInfo& tensor) const {
    return file_.bytes().subspan(tensor.offset, tensor.bytes);
  }
  ConstTensorView view(const TensorInfo& tensor) const {
    return {bytes(tensor).data(), tensor.dtype, tensor.shape};
  }
  /// MappedFile::release_pages.
  void release_pages() const { file_.release_pages(); }

 private:
  SafetensorsReader(std::string path, MappedFile file, SafetensorsHeader header)
      : path_(std::move(path)), file_(std::move(file)), header_(std::move(header)) {}

  std::string path_;
  MappedFile file_;
  SafetensorsHeader header_;
};

}  // namespace nibble::formats
