// Text files that may be compressed: .gz and .zst by the end of their name, everything else as it
// is.
#pragma once

#include "base/result.h"

#include <cstddef>
#include <string>
#include <string_view>

namespace nibble {

/// Text of more bytes than this is refused: a small file can unpack to any size.
inline constexpr size_t kMaxUnpackedBytes = size_t{1} << 31;

/// The whole file, unpacked. Errors: what read_file has; a damaged or cut file (corrupt), too much
/// text (exhausted).
Result<std::string> read_text_file(const std::string& path, size_t max_bytes = kMaxUnpackedBytes);

/// The name without .gz or .zst at its end.
std::string_view uncompressed_name(std::string_view path);

}  // namespace nibble
