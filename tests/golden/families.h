// The families golden_runner knows: how a folder's name leads to the function that runs it.
//
// A family without a function counts as one skipped case, with what nibble lacks. To add one, write
// its function (folder, files and model it needs come in FamilyRun) and put it into the table in
// families.cc.
#pragma once

#include "tests/golden/report.h"

#include <string>
#include <string_view>

namespace nibble::golden {

/// One family folder to run.
struct FamilyRun {
  std::string folder;  // path of the family folder, "goldens/text_small"
  std::string name;  // its last part, "text_small": begins every case name
  std::string variant;  // what follows the family's prefix, "small"
  std::string parent;  // the folder around it, where models/<variant>/ lies
  std::string tokenizer_file;  // --tokenizer, or empty
};

struct Family {
  std::string_view kind;  // "text", for --only
  std::string_view name;  // a prefix of the folder's name, or all of it
  bool is_prefix;
  void (*run)(const FamilyRun& run, Report& report);  // nullptr: not there yet
  std::string_view lacking = {};  // then: what nibble has to learn first
};

/// The family a folder of this name belongs to, or nullptr.
const Family* find_family(std::string_view folder_name);

}  // namespace nibble::golden
