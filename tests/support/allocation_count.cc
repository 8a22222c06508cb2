// The replacement serves the whole test program; the default array and nothrow forms end here, too.
#include "tests/support/allocation_count.h"

#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define NIBBLE_TEST_HAS_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define NIBBLE_TEST_HAS_SANITIZER
#endif
#endif

#ifdef NIBBLE_TEST_HAS_SANITIZER

namespace nibble::runtime {
bool counts_allocations() {
  return false;
}
int64_t allocations_of_this_thread() {
  return 0;
}
}  // namespace nibble::runtime

#else

namespace {
thread_local int64_t count = 0;

void* allocate(size_t bytes, size_t alignment) {
  ++count;
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
}  // namespace

void* operator new(size_t bytes) {
  return allocate(bytes, alignof(std::max_align_t));
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace nibble::runtime {

bool counts_allocations() {
  return true;
}

int64_t allocations_of_this_thread() {
  return count;
}

}  // namespace nibble::runtime

#endif
