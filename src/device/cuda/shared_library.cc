#include "device/cuda/shared_library.h"

#include <dlfcn.h>

namespace nibble::device {

SharedLibrary::~SharedLibrary() {
  if (handle_ != nullptr) (void)dlclose(handle_);
}

Result<SharedLibrary> SharedLibrary::open(const std::vector<std::string>& names) {
  SharedLibrary out;
  std::string problems;
  for (const std::string& name : names) {
    out.handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (out.handle_ != nullptr) return out;
    problems += (problems.empty() ? "" : "; ") + std::string(dlerror());
  }
  return Error{ErrorCode::unsupported, problems};
}

Result<void*> SharedLibrary::address_of(const char* symbol) const {
  void* found = dlsym(handle_, symbol);
  if (found != nullptr) return found;
  return Error{ErrorCode::unsupported, std::string("missing in the library: ") + symbol};
}

}  // namespace nibble::device
