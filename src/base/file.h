// Files: whole reads, and writes that are never seen half done (temporary name, fsync, rename).
#pragma once

#include "base/result.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

Result<std::string> read_file(const std::string& path);

/// Writes path.tmp, syncs it, renames it to path and syncs the folder.
Result<void> write_file_atomic(const std::string& path, std::string_view bytes);

bool file_exists(const std::string& path);
bool directory_exists(const std::string& path);

/// Names (not paths) of the entries of a folder, sorted, without "." and "..".
Result<std::vector<std::string>> list_directory(const std::string& path);

/// Syncs a folder so that renames inside it survive a power loss.
Result<void> sync_directory(const std::string& path);

/// "path: No such file or directory" with a code that fits errno.
Error errno_error(const std::string& path, int errno_value);

}  // namespace nibble
