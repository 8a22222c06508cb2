// Parsing and rendering behind one small interface; JSON becomes values here.
#include "tokenizer/jinja/template.h"

#include "base/utf8.h"
#include "tokenizer/jinja/ast.h"
#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/interpreter.h"
#include "tokenizer/jinja/parser.h"

#include <nlohmann/json.hpp>

namespace nibble::tokenizer::jinja {
namespace {

Value from_json(Runtime& runtime, const OrderedJson& json);

Value integer_from_json(Runtime& runtime, const OrderedJson& json) {
  if (!json.is_number_unsigned()) return Value::integer(json.get<int64_t>());
  return integer_from_digits(runtime, std::to_string(json.get<uint64_t>()), 10);
}

Value array_from_json(Runtime& runtime, const OrderedJson& json) {
  std::vector<Value> items;
  items.reserve(json.size());
  for (const OrderedJson& item : json) {
    if (!runtime.step()) return Value();
    items.push_back(from_json(runtime, item));
  }
  return runtime.list(std::move(items));
}

Value object_from_json(Runtime& runtime, const OrderedJson& json) {
  DictData data;
  for (auto it = json.begin(); it != json.end(); ++it) {
    if (!runtime.step()) return Value();
    const Value key = runtime.string(it.key());
    data.set(key, from_json(runtime, it.value()));
  }
  return runtime.dict(std::move(data));
}

// Depth is bounded by the JSON parser; a Runtime::Descent bounds hand-made values too.
Value from_json(Runtime& runtime, const OrderedJson& json) {
  const Runtime::Descent descent(runtime);
  if (runtime.failed()) return Value();
  switch (json.type()) {
    case OrderedJson::value_t::boolean:
      return Value::boolean(json.get<bool>());
    case OrderedJson::value_t::number_integer:
    case OrderedJson::value_t::number_unsigned:
      return integer_from_json(runtime, json);
    case OrderedJson::value_t::number_float:
      return Value::floating(json.get<double>());
    case OrderedJson::value_t::string:
      return runtime.string(replace_invalid_utf8(json.get_ref<const std::string&>()));
    case OrderedJson::value_t::array:
      return array_from_json(runtime, json);
    case OrderedJson::value_t::object:
      return object_from_json(runtime, json);
    default:
      return Value();
  }
}

}  // namespace

Template::Template(std::unique_ptr<const SyntaxTree> tree) : tree_(std::move(tree)) {}
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

Result<Template> Template::parse(std::string_view source, JinjaError* detail) {
  ParseResult parsed;
  if (is_valid_utf8(source)) {
    parsed = parse_template(source);
  } else {
    parsed.error = JinjaError{ErrorKind::syntax_error, "the template is not valid UTF-8", {1, 1}};
  }
  if (!parsed.error) return Template(std::move(parsed.tree));
  if (detail != nullptr) *detail = *parsed.error;
  return Error{ErrorCode::unsupported, parsed.error->to_string()};
}

RenderOutcome Template::render(
    const std::vector<std::pair<std::string, const OrderedJson*>>& variables,
    const Limits& limits) const {
  Runtime runtime(limits);
  Interpreter interpreter(runtime, *tree_);
  for (const auto& [name, json] : variables) interpreter.define(name, from_json(runtime, *json));
  RenderOutcome outcome;
  if (!runtime.failed()) outcome.text = interpreter.run();
  if (runtime.failed()) {
    outcome.text.clear();
    outcome.error = runtime.error();
  }
  return outcome;
}

RenderOutcome Template::render(const OrderedJson& variables, const Limits& limits) const {
  std::vector<std::pair<std::string, const OrderedJson*>> members;
  for (auto it = variables.begin(); it != variables.end(); ++it) {
    members.emplace_back(it.key(), &it.value());
  }
  return render(members, limits);
}

}  // namespace nibble::tokenizer::jinja
