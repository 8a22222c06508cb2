// A Result may not be dropped: the error in it would vanish.
#include "base/file.h"

bool save(const std::string& path) {
#ifdef NIBBLE_TWIN
  return nibble::write_file_atomic(path, "bytes").ok();
#else
  nibble::write_file_atomic(path, "bytes");
  return true;
#endif
}
