#include "quantize/finite_check.h"

#include "base/problems.h"

#include <fmt/format.h>

#include <cstring>
#include <string_view>

namespace nibble::quantize {

// NaN and infinity are the values with all exponent bits set.
int64_t count_not_finite(ConstTensorView view) {
  const int64_t count = view.shape().elements();
  int64_t found = 0;
  if (view.dtype() == DType::f32) {
    for (int64_t i = 0; i < count; ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, view.data() + 4 * i, sizeof bits);
      found += (bits & 0x7F800000u) == 0x7F800000u;
    }
  } else if (view.dtype() == DType::bf16 || view.dtype() == DType::f16) {
    const unsigned exponent = view.dtype() == DType::bf16 ? 0x7F80u : 0x7C00u;
    for (int64_t i = 0; i < count; ++i) {
      uint16_t bits = 0;
      std::memcpy(&bits, view.data() + 2 * i, sizeof bits);
      found += (bits & exponent) == exponent;
    }
  }
  return found;
}

Result<void> check_finite(const formats::Checkpoint& checkpoint,
                          const std::function<bool(int64_t, int64_t)>& progress) {
  const auto total = static_cast<int64_t>(checkpoint.total_bytes());
  int64_t done = 0;
  Problems problems;
  for (const std::string_view name : checkpoint.names()) {
    if (!progress(done, total)) return Error{ErrorCode::cancelled, "the check was interrupted"};
    const ConstTensorView view = checkpoint.view(name);
    const int64_t count = count_not_finite(view);
    if (count > 0) problems.add(fmt::format("{}: {} of its values are not finite", name, count));
    done += static_cast<int64_t>(view.bytes());
    checkpoint.release_pages();
  }
  progress(total, total);
  if (problems.empty()) return {};
  return problems.error(ErrorCode::corrupt, checkpoint.path());
}

}  // namespace nibble::quantize
