#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace nibble {

void check_failed(const char* file, int line, const char* condition, const char* text,
                  std::initializer_list<CheckValue> values) {
  std::fprintf(stderr, "nibble: internal error at %s:%d: %s (%s)", file, line, text, condition);
  for (const CheckValue& value : values) std::fprintf(stderr, " [%s]", value.text.c_str());
  std::fputc('\n', stderr);
  std::abort();
}

}  // namespace nibble
