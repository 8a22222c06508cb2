#include "base/mapped_file.h"

#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace nibble {

Result<MappedFile> MappedFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno_error(path, errno);
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    const int failure = errno;
    ::close(fd);
    return errno_error(path, failure);
  }
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) {
    ::close(fd);
    return MappedFile(std::span<const std::byte>());
  }
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  const int failure = errno;
  ::close(fd);
  if (address == MAP_FAILED) return errno_error(path, failure);
  return MappedFile({static_cast<const std::byte*>(address), size});
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    this->~MappedFile();
    bytes_ = std::exchange(other.bytes_, {});
  }
  return *this;
}

void MappedFile::release_pages() const {
  if (bytes_.empty()) return;
  ::madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace nibble
