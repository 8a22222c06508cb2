#include "quantize/tensor_sink.h"

namespace nibble::quantize {

Result<void> TensorSink::poll() const {
  if (!progress_(done_bytes_)) return Error{ErrorCode::cancelled, "quantizing was interrupted"};
  return {};
}

Result<void> TensorSink::append(const std::string& name, std::span<const std::byte> bytes) {
  NIBBLE_RETURN_IF_ERROR(poll());
  done_bytes_ += static_cast<int64_t>(bytes.size());
  if (!writer_.needs(name)) return {};
  return writer_.append(name, bytes);
}

}  // namespace nibble::quantize
