#include "formats/safetensors_reader.h"

#include "base/problems.h"
#include "formats/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

namespace nibble::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "tensor bytes are used as they lie");

constexpr size_t kPrefix = 8;

// Length of the JSON text, checked against the limits.
Result<size_t> header_length(std::span<const std::byte> file) {
  if (file.size() < kPrefix) {
    return Error{ErrorCode::corrupt,
                 fmt::format("{} bytes, too short for a safetensors file", file.size())};
  }
  uint64_t length = 0;
  std::memcpy(&length, file.data(), kPrefix);
  if (length > kMaxSafetensorsHeader) {
    return Error{ErrorCode::corrupt, fmt::format("header length {}, at most {} is accepted", length,
                                                 kMaxSafetensorsHeader)};
  }
  if (length > file.size() - kPrefix) {
    return Error{ErrorCode::corrupt,
                 fmt::format("header length {}, but the file has {} bytes", length, file.size())};
  }
  return static_cast<size_t>(length);
}

void check_names(const std::vector<TensorInfo>& tensors, Problems& problems) {
  for (size_t i = 1; i < tensors.size(); ++i) {
    if (tensors[i].name == tensors[i - 1].name) {
      problems.add(fmt::format("tensor {} appears twice", quoted_name(tensors[i].name)));
    }
  }
}

// Tensors must cover the data section exactly: no gap, no overlap, nothing behind the last.
void check_coverage(const std::vector<TensorInfo>& tensors, size_t data_bytes, Problems& problems) {
  std::vector<const TensorInfo*> order;
  order.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return std::pair(a->offset, a->bytes) < std::pair(b->offset, b->bytes);
  });
  size_t end = 0;
  for (const TensorInfo* tensor : order) {
    if (tensor->offset < end) {
      problems.add(fmt::format("tensor {} overlaps the tensor before it: starts at {}, expected {}",
                               quoted_name(tensor->name), tensor->offset, end));
    } else if (tensor->offset > end) {
      problems.add(fmt::format("hole of {} bytes before tensor {}", tensor->offset - end,
                               quoted_name(tensor->name)));
    }
    end = std::max(end, tensor->offset + tensor->bytes);
  }
  if (end != data_bytes) {
    problems.add(fmt::format("{} bytes of data, the tensors use {}", data_bytes, end));
  }
}

void check_alignment(const std::vector<TensorInfo>& tensors, Problems& problems) {
  for (const TensorInfo& tensor : tensors) {
    if (tensor.bytes > 0 && tensor.offset % dtype_bytes(tensor.dtype) != 0) {
      problems.add(fmt::format("tensor {}: byte {} of the file is not aligned for {}",
                               quoted_name(tensor.name), tensor.offset, dtype_name(tensor.dtype)));
    }
  }
}

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file,
                                                   const std::string& what) {
  const auto length = header_length(file);
  if (!length.ok()) return length.error().with(what);
  const std::string_view json(reinterpret_cast<const char*>(file.data()) + kPrefix, length.value());
  if (json.empty() || json.front() != '{') {
    return Error{ErrorCode::corrupt, what + ": header does not start with '{'"};
  }
  const size_t data_start = kPrefix + length.value();
  Problems problems;
  auto parsed = parse_header_json(json, file.size() - data_start, problems);
  if (!parsed.ok()) return parsed.error().with(what);
  SafetensorsHeader header = std::move(parsed).value();
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  check_names(header.tensors, problems);
  // A refused tensor leaves a hole, which would only repeat the complaint.
  if (problems.empty()) check_coverage(header.tensors, file.size() - data_start, problems);
  for (TensorInfo& tensor : header.tensors) tensor.offset += data_start;
  if (problems.empty()) check_alignment(header.tensors, problems);
  if (!problems.empty()) return problems.error(ErrorCode::corrupt, what);
  return header;
}

Result<SafetensorsReader> SafetensorsReader::open(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  NIBBLE_ASSIGN_OR_RETURN(SafetensorsHeader header, parse_safetensors_header(file.bytes(), path));
  return SafetensorsReader(path, std::move(file), std::move(header));
}

const TensorInfo* SafetensorsReader::find(std::string_view name) const {
  const auto& all = header_.tensors;
  const auto it = std::lower_bound(
      all.begin(), all.end(), name,
      [](const TensorInfo& tensor, std::string_view wanted) { return tensor.name < wanted; });
  return it != all.end() && it->name == name ? &*it : nullptr;
}

}  // namespace nibble::formats
