#include "base/mapped_file.h"

#include "base/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>

namespace nibble {
namespace {

// The files that are mapped, for a signal handler: it may take no lock, so a slot is filled before
// its address is set, and emptied by clearing the address. Files beyond the last slot go unnamed.
struct Slot {
  std::atomic<uintptr_t> address{0};  // 0: free
  std::atomic<size_t> size{0};
  char path[512] = {};
};
std::array<Slot, 1024> slots;
std::mutex slots_mutex;  // between those that fill and empty

void remember(const void* address, size_t size, const std::string& path) {
  const std::lock_guard<std::mutex> lock(slots_mutex);
  for (Slot& slot : slots) {
    if (slot.address != 0) continue;
    slot.path[path.copy(slot.path, sizeof slot.path - 1)] = '\0';
    slot.size = size;
    slot.address = reinterpret_cast<uintptr_t>(address);
    return;
  }
}

void forget(const void* address) {
  const std::lock_guard<std::mutex> lock(slots_mutex);
  for (Slot& slot : slots) {
    if (slot.address == reinterpret_cast<uintptr_t>(address)) slot.address = 0;
  }
}

int guard_exit_status = 1;

void say(const char* text) {
  const ssize_t ignored = ::write(STDERR_FILENO, text, std::strlen(text));
  (void)ignored;
}

void on_bus_error(int, siginfo_t* info, void*) {
  const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Slot& slot : slots) {
    const uintptr_t begin = slot.address;
    if (begin == 0 || at < begin || at - begin >= slot.size) continue;
    say("\nnibble: ");
    say(slot.path);
    say(": cannot be read any more: it became shorter while in use, or its disk failed\n");
    ::_exit(guard_exit_status);
  }
  // Not ours: the instruction is run again and ends the program as it would have.
  ::signal(SIGBUS, SIG_DFL);
}

}  // namespace

void prefetch_mapped(std::span<const std::byte> bytes) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data()) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size();
  ::posix_madvise(reinterpret_cast<void*>(begin), end - begin, POSIX_MADV_WILLNEED);
}

void install_mapped_file_guard(int exit_status) {
  guard_exit_status = exit_status;
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, nullptr);
}

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
  remember(address, size, path);
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
  if (bytes_.empty()) return;
  forget(bytes_.data());
  ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace nibble
