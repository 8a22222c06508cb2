// Lists of pages grow and shrink at their end only.
#include "runtime/kv_pages.h"

namespace nibble::runtime {

void KvPages::grow(std::vector<int32_t>& pages, int32_t count) {
  while (static_cast<int32_t>(pages.size()) < count) pages.push_back(pool_.acquire());
}

void KvPages::release_all(std::vector<int32_t>& pages) {
  while (!pages.empty()) {
    pool_.release(pages.back());
    pages.pop_back();
  }
}

}  // namespace nibble::runtime
