// NIBBLE_CHECK: aborts on our own bugs, in every build, with file, line and the values involved.
//
// Never for bad input: that is a Result. NIBBLE_DCHECK disappears in release builds, for inner
// loops.
#pragma once

#include <initializer_list>
#include <string>
#include <type_traits>

namespace nibble {

/// One value printed with a failed check.
struct CheckValue {
  CheckValue(const std::string& value) : text(value) {}  // NOLINT: implicit by design
  CheckValue(const char* value) : text(value) {}  // NOLINT: implicit by design
  template <typename Number, typename = std::enable_if_t<std::is_arithmetic_v<Number>>>
  CheckValue(Number number) : text(std::to_string(number)) {}  // NOLINT: implicit by design

  std::string text;
};

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const char* text,
                               std::initializer_list<CheckValue> values);

}  // namespace nibble

#define NIBBLE_CHECK(condition, text, ...)                                                         \
  do {                                                                                             \
    if (!(condition)) ::nibble::check_failed(__FILE__, __LINE__, #condition, text, {__VA_ARGS__}); \
  } while (false)

#ifdef NDEBUG
#define NIBBLE_DCHECK(condition, text, ...) \
  do {                                      \
  } while (false)
#else
#define NIBBLE_DCHECK(condition, text, ...) NIBBLE_CHECK(condition, text, ##__VA_ARGS__)
#endif
