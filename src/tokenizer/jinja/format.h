// Python's two kinds of text formatting: "%s" % values and "{}".format(values).
#pragma once

#include "tokenizer/jinja/runtime.h"
#include "tokenizer/jinja/value.h"

#include <string_view>

namespace nibble::tokenizer::jinja {

/// format % values. values is a tuple, a mapping for %(name)s, or a single value. On Markup the
/// values are escaped.
Value percent_format(Runtime& runtime, const Value& format, const Value& values);

/// format.format(*positional, **keywords), fields with attributes, indices, !r !s !a and format
/// specs.
Value brace_format(Runtime& runtime, const Value& format, const CallArguments& arguments);

}  // namespace nibble::tokenizer::jinja
