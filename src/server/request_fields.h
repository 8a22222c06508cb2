// The field table: how every endpoint describes the members of its JSON body.
//
// One row per field: name, type, range, what it sets. null means absent; a field without a row is
// ignored; a field with a row and no action is accepted without effect. A new field is a new row,
// never a new if in a handler.
#pragma once

#include "base/json.h"
#include "server/openai_errors.h"

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace nibble::server {

enum class FieldType { boolean, integer, number, string, array, object, any };

/// Bounds of a number, or of the length of a string or array. `low_excluded`: > instead of >=.
struct FieldRange {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_excluded = false;
};

struct FieldSpec {
  const char* name;
  FieldType type;
  FieldRange range = {};
};

/// What an action sees beside the value: where to report.
struct FieldSink {
  const char* name;
  FieldErrors& errors;

  void error(const std::string& message) const { errors.add(name, message); }
};

/// `apply` gets a value of the right type and range. Null: accepted, no effect.
template <typename Request>
struct Field {
  FieldSpec spec;
  void (*apply)(Request& request, const OrderedJson& value, const FieldSink& sink);
};

/// The member if present, not null and as the row wants it; else null, with an error if wrong.
const OrderedJson* checked_member(const OrderedJson& object, const FieldSpec& spec,
                                  FieldErrors& errors);

template <typename Request>
void read_fields(const OrderedJson& object, std::span<const Field<Request>> table, Request& request,
                 FieldErrors& errors) {
  for (const Field<Request>& field : table) {
    const OrderedJson* value = checked_member(object, field.spec, errors);
    if (value == nullptr || field.apply == nullptr) continue;
    field.apply(request, *value, FieldSink{field.spec.name, errors});
  }
}

/// Values of checked members. Integers may be written 3.0.
int64_t int_value(const OrderedJson& value);
std::string string_value(const OrderedJson& value);

/// Elements of an array field; an element of another type is an error at "name.index".
std::vector<int32_t> token_list(const OrderedJson& value, const FieldSink& sink);
std::vector<std::string> string_list(const OrderedJson& value, const FieldSink& sink);

/// Reports a value other than false, {}, [] or "" as not supported. For fields of the API that this
/// server does not have yet: a clear 400 instead of a silently different answer.
void refuse_if_set(const OrderedJson& value, const FieldSink& sink);

}  // namespace nibble::server
