// Fuzz target: the safetensors header parser on arbitrary bytes taken as a whole file.
//
// What it accepts must hold its promises: tensors inside the file, back to back, sorted, sized as
// their shapes say. Both the raw bytes and the bytes behind a correct length prefix are tried,
// since a random prefix hardly ever fits.
#include "base/check.h"
#include "formats/safetensors_reader.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace {

using nibble::formats::TensorInfo;

void check_promises(std::span<const std::byte> file) {
  const auto header = nibble::formats::parse_safetensors_header(file, "input");
  if (!header.ok()) {
    NIBBLE_CHECK(!header.error().message.empty(), "a refusal says why");
    return;
  }
  size_t bytes = 0;
  const TensorInfo* previous = nullptr;
  for (const TensorInfo& tensor : header.value().tensors) {
    NIBBLE_CHECK(tensor.offset <= file.size() && tensor.bytes <= file.size() - tensor.offset,
                 "tensor inside the file");
    NIBBLE_CHECK(
        static_cast<size_t>(tensor.shape.elements()) * dtype_bytes(tensor.dtype) == tensor.bytes,
        "tensor as big as its shape");
    NIBBLE_CHECK(previous == nullptr || previous->name < tensor.name, "sorted, no name twice");
    previous = &tensor;
    bytes += tensor.bytes;
  }
  NIBBLE_CHECK(bytes <= file.size(), "no byte belongs to two tensors");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto raw = std::as_bytes(std::span(data, size));
  check_promises(raw);
  // First byte: how many of the input's bytes are data behind the JSON text.
  if (size < 2) return 0;
  const size_t data_bytes = std::min<size_t>(data[0], size - 1);
  const uint64_t length = size - 1 - data_bytes;
  std::vector<std::byte> file(8 + size - 1);
  std::memcpy(file.data(), &length, 8);
  std::memcpy(file.data() + 8, raw.data() + 1, size - 1);
  check_promises(file);
  return 0;
}
