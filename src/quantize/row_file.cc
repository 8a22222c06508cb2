#include "quantize/row_file.h"

#include "base/check.h"
#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

namespace nibble::quantize {

Result<RowFile> RowFile::create(const std::string& path, size_t row_bytes) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return errno_error(path, errno);
  return RowFile(path, fd, row_bytes);
}

Result<RowFile> RowFile::create_unnamed(const std::string& path, size_t row_bytes) {
  NIBBLE_ASSIGN_OR_RETURN(RowFile file, create(path, row_bytes));
  if (::unlink(path.c_str()) != 0) return errno_error(path, errno);
  return file;
}

Result<RowFile> RowFile::open(const std::string& path, size_t row_bytes, int64_t rows) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return errno_error(path, errno);
  RowFile file(path, fd, row_bytes);
  const off_t size = ::lseek(fd, 0, SEEK_END);
  const off_t wanted = rows * static_cast<off_t>(row_bytes);
  if (size != wanted) {
    return Error{ErrorCode::corrupt,
                 fmt::format("{}: {} bytes, expected {} rows of {}", path, size, rows, row_bytes)};
  }
  return file;
}

RowFile::RowFile(RowFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      row_bytes_(other.row_bytes_) {}

RowFile& RowFile::operator=(RowFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(row_bytes_, other.row_bytes_);
  return *this;
}

RowFile::~RowFile() {
  if (fd_ >= 0) ::close(fd_);
}

Result<void> RowFile::write(int64_t first, std::span<const std::byte> rows) {
  NIBBLE_CHECK(rows.size() % row_bytes_ == 0, "whole rows", path_, rows.size(), row_bytes_);
  auto offset = static_cast<off_t>(first * static_cast<int64_t>(row_bytes_));
  while (!rows.empty()) {
    const ssize_t n = ::pwrite(fd_, rows.data(), rows.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error(path_, errno);
    rows = rows.subspan(static_cast<size_t>(n));
    offset += n;
  }
  return {};
}

Result<void> RowFile::read(int64_t first, std::span<std::byte> rows) const {
  NIBBLE_CHECK(rows.size() % row_bytes_ == 0, "whole rows", path_, rows.size(), row_bytes_);
  auto offset = static_cast<off_t>(first * static_cast<int64_t>(row_bytes_));
  while (!rows.empty()) {
    const ssize_t n = ::pread(fd_, rows.data(), rows.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error(path_, errno);
    if (n == 0) {
      return Error{ErrorCode::corrupt, fmt::format("{}: ends at byte {}, expected {} more", path_,
                                                   offset, rows.size())};
    }
    rows = rows.subspan(static_cast<size_t>(n));
    offset += n;
  }
  return {};
}

Result<void> RowFile::sync() const {
  if (::fdatasync(fd_) != 0) return errno_error(path_, errno);
  return {};
}

}  // namespace nibble::quantize
