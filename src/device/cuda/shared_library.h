// A shared library opened while the program runs: what only some commands need, or some machines
// have.
#pragma once

#include "base/result.h"

#include <string>
#include <utility>
#include <vector>

namespace nibble::device {

class SharedLibrary {
 public:
  SharedLibrary() = default;
  SharedLibrary(SharedLibrary&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  SharedLibrary& operator=(SharedLibrary&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~SharedLibrary();

  /// The first of `names` that can be opened. unsupported: none, with the loader's words.
  static Result<SharedLibrary> open(const std::vector<std::string>& names);

  /// Sets `function` to the symbol. unsupported: not there.
  template <typename Function>
  Result<void> find(const char* symbol, Function*& function) const {
    void* found = nullptr;
    NIBBLE_ASSIGN_OR_RETURN(found, address_of(symbol));
    function = reinterpret_cast<Function*>(found);
    return {};
  }

 private:
  Result<void*> address_of(const char* symbol) const;
  void* handle_ = nullptr;
};

}  // namespace nibble::device
