// Fuzzes the Jinja parser and interpreter: any text is parsed and, if it parses, rendered with a
// small context.
//
// Limits are low so that a slow input is a finding and not a time-out; everything else must end in
// a text or an error.
#include "tokenizer/jinja/template.h"

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace {

const nibble::OrderedJson& context() {
  static const nibble::OrderedJson kContext = {
      {"messages",
       {{{"role", "user"}, {"content", "Hi <b> \xC3\xA4"}},
        {{"role", "assistant"}, {"content", nullptr}, {"n", 1.5}}}},
      {"items", {3, 1, 2}},
      {"d", {{"a", {1, nullptr, true}}, {"b", 1e300}}},
      {"s", " Hello World \n"},
      {"i", 7},
      {"big", 18446744073709551615u},
      {"t", true},
      {"n", nullptr},
  };
  return kContext;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto parsed = nibble::tokenizer::jinja::Template::parse(source);
  if (!parsed.ok()) return 0;
  nibble::tokenizer::jinja::Limits limits;
  limits.max_steps = 50'000;
  limits.max_output_bytes = 1 << 20;
  limits.max_made_bytes = 8 << 20;
  limits.max_depth = 300;
  parsed.value().render(context(), limits);
  return 0;
}
