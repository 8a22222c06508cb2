// Methods of str that answer questions (methods_string_query.cc), for the table in
// methods_string.cc.
#pragma once

#include "tokenizer/jinja/builtins.h"

namespace nibble::tokenizer::jinja {

Value string_count(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_find(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_rfind(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_index(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_rindex(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_startswith(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_endswith(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_isalnum(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_isalpha(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_isascii(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_isdecimal(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_isdigit(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_isidentifier(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_islower(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_isnumeric(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_isprintable(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_isspace(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_istitle(Runtime& runtime, const Value& self, const CallArguments& arguments);
Value string_isupper(Runtime& runtime, const Value& self, const CallArguments& arguments);
/// For methods Python has and templates do not need: refused by name.
Value string_unsupported(Runtime& runtime, const Value& self, const CallArguments& arguments);

/// align: '<' '>' '^' as in FormatSpec; fill is one code point.
Value pad_string(Runtime& runtime, std::string_view text, int64_t width, std::string_view fill,
                 char align, bool is_markup);

}  // namespace nibble::tokenizer::jinja
