// str, repr and JSON of values.
#include "tokenizer/jinja/printing.h"

#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace nibble::tokenizer::jinja {
namespace {

std::string integer_text(Runtime& runtime, const Value& value) {
  const uint64_t cost = integer_cost(value);
  if (!runtime.step(cost * cost)) return "";
  return integer_to_string(value);
}

void append_escape(char32_t c, std::string& out) {
  if (c < 0x100) {
    out += fmt::format("\\x{:02x}", static_cast<uint32_t>(c));
  } else if (c < 0x10000) {
    out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
  } else {
    out += fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
  }
}

void append_sequence_repr(Runtime& runtime, const Value& value, std::string& out) {
  const auto& items = value.as_sequence().items;
  const bool is_list = value.is(ValueKind::list);
  out += is_list ? "[" : "(";
  for (size_t i = 0; i < items.size() && !runtime.failed(); ++i) {
    if (i > 0) out += ", ";
    append_repr(runtime, items[i], out);
  }
  if (!is_list && items.size() == 1) out += ",";
  out += is_list ? "]" : ")";
}

void append_dict_repr(Runtime& runtime, const DictData& dict, std::string& out) {
  out += "{";
  bool is_first = true;
  for (const auto& entry : dict.entries()) {
    if (runtime.failed()) return;
    if (!is_first) out += ", ";
    is_first = false;
    append_repr(runtime, entry.key, out);
    out += ": ";
    append_repr(runtime, entry.value, out);
  }
  out += "}";
}

class JsonWriter {
 public:
  JsonWriter(Runtime& runtime, const JsonStyle& style) : runtime_(runtime), style_(style) {}

  std::string run(const Value& value) {
    write(value, 0);
    return std::move(out_);
  }

 private:
  void write(const Value& value, int level) {
    const size_t before = out_.size();
    switch (value.kind()) {
      case ValueKind::none:
        out_ += "null";
        break;
      case ValueKind::boolean:
        out_ += value.as_boolean() ? "true" : "false";
        break;
      case ValueKind::integer:
      case ValueKind::big_integer:
        out_ += integer_text(runtime_, value);
        break;
      case ValueKind::floating:
        out_ += number(value.as_floating());
        break;
      case ValueKind::string:
        write_string(value.as_string());
        break;
      case ValueKind::list:
      case ValueKind::tuple:
        return write_list(value.as_sequence().items, level);
      case ValueKind::dict:
        return write_dict(value.as_dict(), level);
      default:
        runtime_.fail(ErrorKind::type_error,
                      fmt::format("Object of type {} is not JSON serializable", type_name(value)));
    }
    runtime_.charge(out_.size() - before);
    runtime_.step();
  }

  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return float_repr(value);
  }

  void write_unicode_escape(uint32_t code) { out_ += fmt::format("\\u{:04x}", code); }

  void write_string(std::string_view text) {
    out_ += '"';
    for (const char32_t c : decode_text(text)) {
      switch (c) {
        case '"':
          out_ += "\\\"";
          break;
        case '\\':
          out_ += "\\\\";
          break;
        case '\n':
          out_ += "\\n";
          break;
        case '\r':
          out_ += "\\r";
          break;
        case '\t':
          out_ += "\\t";
          break;
        case '\f':
          out_ += "\\f";
          break;
        case '\b':
          out_ += "\\b";
          break;
        default:
          write_character(c);
      }
    }
    out_ += '"';
  }

  void write_character(char32_t c) {
    if (c < 0x20 || (style_.ensure_ascii && c >= 0x7F && c < 0x10000)) {
      write_unicode_escape(c);
    } else if (style_.ensure_ascii && c >= 0x10000) {
      write_unicode_escape(0xD800 + ((c - 0x10000) >> 10));
      write_unicode_escape(0xDC00 + ((c - 0x10000) & 0x3FF));
    } else {
      out_ += encode_text(c);
    }
  }

  void new_line(int level) {
    if (!style_.has_indent) return;
    out_ += '\n';
    if (!runtime_.charge(style_.indent.size() * static_cast<size_t>(level))) return;
    for (int i = 0; i < level; ++i) out_ += style_.indent;
  }

  void write_list(const std::vector<Value>& items, int level) {
    if (items.empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    for (size_t i = 0; i < items.size() && !runtime_.failed(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line(level + 1);
      write(items[i], level + 1);
    }
    new_line(level);
    out_ += ']';
  }

  void write_dict(const DictData& dict, int level) {
    if (dict.size() == 0) {
      out_ += "{}";
      return;
    }
    out_ += '{';
    bool is_first = true;
    for (const DictData::Entry* entry : ordered_entries(dict)) {
      if (runtime_.failed()) return;
      if (!is_first) out_ += style_.item_separator;
      is_first = false;
      new_line(level + 1);
      write_string(key_text(entry->key));
      out_ += style_.key_separator;
      write(entry->value, level + 1);
    }
    new_line(level);
    out_ += '}';
  }

  std::vector<const DictData::Entry*> ordered_entries(const DictData& dict) {
    std::vector<const DictData::Entry*> entries;
    for (const auto& entry : dict.entries()) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [this](const auto* a, const auto* b) {
        return ordered(runtime_, Comparison::less, a->key, b->key);
      });
    }
    return entries;
  }

  std::string key_text(const Value& key) {
    switch (key.kind()) {
      case ValueKind::string:
        return key.as_string();
      case ValueKind::none:
        return "null";
      case ValueKind::boolean:
        return key.as_boolean() ? "true" : "false";
      case ValueKind::integer:
      case ValueKind::big_integer:
        return integer_text(runtime_, key);
      case ValueKind::floating:
        return number(key.as_floating());
      default:
        runtime_.fail(
            ErrorKind::type_error,
            fmt::format("keys must be str, int, float, bool or None, not {}", type_name(key)));
        return "";
    }
  }

  Runtime& runtime_;
  const JsonStyle& style_;
  std::string out_;
};

}  // namespace

void append_text_repr(std::string_view text, std::string& out, bool all_ascii) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  out += quote;
  for (const char32_t c : decode_text(text)) {
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\\' || c == static_cast<char32_t>(quote)) {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c >= 0x20 && c < 0x7F) {
      out += static_cast<char>(c);
    } else if (all_ascii || !is_printable(c)) {
      append_escape(c, out);
    } else {
      out += encode_text(c);
    }
  }
  out += quote;
}

void append_repr(Runtime& runtime, const Value& value, std::string& out) {
  if (!runtime.step()) return;
  const size_t before = out.size();
  switch (value.kind()) {
    case ValueKind::undefined:
      out += "Undefined";
      break;
    case ValueKind::none:
      out += "None";
      break;
    case ValueKind::boolean:
      out += value.as_boolean() ? "True" : "False";
      break;
    case ValueKind::integer:
    case ValueKind::big_integer:
      out += integer_text(runtime, value);
      break;
    case ValueKind::floating:
      out += float_repr(value.as_floating());
      break;
    case ValueKind::string:
      if (value.is_markup()) out += "Markup(";
      append_text_repr(value.as_string(), out);
      if (value.is_markup()) out += ")";
      break;
    case ValueKind::list:
    case ValueKind::tuple:
      return append_sequence_repr(runtime, value, out);
    case ValueKind::dict:
      return append_dict_repr(runtime, value.as_dict(), out);
    case ValueKind::object:
      // A namespace can hold itself, so the depth of objects is not bounded by their making.
      const Runtime::Descent descent(runtime);
      if (!runtime.failed()) value.as_object().repr(runtime, out);
      return;
  }
  runtime.charge(out.size() - before);
}

std::string to_text(Runtime& runtime, const Value& value) {
  if (value.is_string()) return value.as_string();
  if (value.is_undefined()) return "";
  std::string out;
  append_repr(runtime, value, out);
  return out;
}

std::string to_json(Runtime& runtime, const Value& value, const JsonStyle& style) {
  return JsonWriter(runtime, style).run(value);
}

}  // namespace nibble::tokenizer::jinja
