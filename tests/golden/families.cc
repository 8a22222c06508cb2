// The table. Order matters only where one name is a prefix of another.
#include "tests/golden/families.h"

#include "tests/golden/modelopt_goldens.h"
#include "tests/golden/template_goldens.h"
#include "tests/golden/text_goldens.h"
#include "tests/golden/tokenizer_goldens.h"

namespace nibble::golden {
namespace {

void run_tokenizer(const FamilyRun& run, Report& report) {
  run_tokenizer_family(run.folder, run.tokenizer_file, report);
}

void run_template(const FamilyRun& run, Report& report) {
  run_template_family(run.folder, report);
}

void run_text(const FamilyRun& run, Report& report) {
  run_text_family(run.folder, run.parent + "/models/" + run.variant, run.name, report);
}

void run_modelopt(const FamilyRun& run, Report& report) {
  run_modelopt_family(run.folder, run.name, report);
}

constexpr Family kFamilies[] = {
    {"text", "text_", true, run_text},
    {"mtp", "mtp_", true, nullptr, "the draft layer (multi-token prediction)"},
    {"vision", "vision_", true, nullptr, "image input"},
    {"tokenizer", "tokenizer", true, run_tokenizer},
    {"template", "template", false, run_template},
    {"modelopt", "modelopt", false, run_modelopt},
};

}  // namespace

const Family* find_family(std::string_view folder_name) {
  for (const Family& family : kFamilies) {
    const bool fits =
        family.is_prefix ? folder_name.starts_with(family.name) : folder_name == family.name;
    if (fits) return &family;
  }
  return nullptr;
}

}  // namespace nibble::golden
