// A fresh folder for one test, removed with everything in it at the end of the scope.
#pragma once

#include "base/check.h"

#include <system_error>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace nibble {

class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "nibble_test_XXXXXX").string();
    NIBBLE_CHECK(::mkdtemp(pattern.data()) != nullptr, "cannot make a temporary folder", pattern);
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  /// Path of `name` inside the folder.
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace nibble
