// Texts are compared byte for byte; a case fails with the first place where they differ.
#include "tests/golden/template_goldens.h"

#include "base/file.h"
#include "base/json.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/jinja/template.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <functional>
#include <optional>
#include <sstream>

namespace nibble::golden {
namespace {

using tokenizer::ChatRequest;
using tokenizer::ChatTemplate;
using tokenizer::jinja::ErrorKind;
using tokenizer::jinja::JinjaError;
using tokenizer::jinja::Template;

// What our side made of a case.
struct Outcome {
  std::string text;
  std::optional<JinjaError> template_error;  // an error that came from the template or its parsing
  std::string other_error;  // an error of the message handling
  bool failed() const { return template_error.has_value() || !other_error.empty(); }
  std::string error_text() const {
    return template_error ? template_error->to_string() : other_error;
  }
};

std::string around(const std::string& text, size_t at) {
  const size_t start = at > 20 ? at - 20 : 0;
  return dump_json(Json(text.substr(start, 60)));
}

// Nothing when the outcome is the expected one, else what differs.
std::optional<std::string> compare(const Outcome& outcome, const OrderedJson& row) {
  if (row.contains("text")) {
    const auto expected = row["text"].get<std::string>();
    if (outcome.failed()) return fmt::format("error: {}", outcome.error_text());
    if (outcome.text == expected) return std::nullopt;
    const auto differ =
        std::mismatch(outcome.text.begin(), outcome.text.end(), expected.begin(), expected.end());
    const auto at = static_cast<size_t>(differ.first - outcome.text.begin());
    return fmt::format("byte {}: found {}, expected {}", at, around(outcome.text, at),
                       around(expected, at));
  }
  const auto expected = row.at("error").get<std::string>();
  if (!outcome.failed()) {
    return fmt::format("found a text, expected {}: {}", row.value("error_type", ""), expected);
  }
  if (row.value("error_type", "") != "TemplateError") return std::nullopt;
  const bool equal = outcome.template_error &&
                     outcome.template_error->kind == ErrorKind::template_error &&
                     outcome.template_error->message == expected;
  if (equal) return std::nullopt;
  return fmt::format("found error {}, expected the template's own: {}", outcome.error_text(),
                     expected);
}

Outcome run_template_case(const OrderedJson& row, const OrderedJson& context) {
  Outcome outcome;
  JinjaError detail;
  auto parsed = Template::parse(row.at("template").get<std::string>(), &detail);
  if (!parsed.ok()) {
    outcome.template_error = detail;
    return outcome;
  }
  auto rendered = parsed.value().render(context);
  outcome.text = std::move(rendered.text);
  outcome.template_error = std::move(rendered.error);
  return outcome;
}

// The arguments of apply_chat_template: two are ours by name, the rest are template variables.
ChatRequest request_of(const OrderedJson& row) {
  ChatRequest request;
  request.messages = row.at("messages");
  request.tools = row.at("tools");
  for (auto it = row.at("kwargs").begin(); it != row.at("kwargs").end(); ++it) {
    if (it.key() == "add_generation_prompt") {
      request.add_generation_prompt = it.value() == true;
    } else if (it.key() == "continue_final_message") {
      if (it.value().is_string()) request.continue_field = it.value().get<std::string>();
      if (it.value() == true) request.continue_field = "content";
    } else {
      request.variables[it.key()] = it.value();
    }
  }
  return request;
}

Outcome run_chat_case(const ChatTemplate& chat_template, const OrderedJson& row) {
  Outcome outcome;
  JinjaError detail;
  detail.position.line = -1;  // stays when the failure is not the template's
  auto rendered = chat_template.render(request_of(row), &detail);
  if (rendered.ok()) {
    outcome.text = std::move(rendered).value();
  } else if (detail.position.line != -1) {
    outcome.template_error = detail;
  } else {
    outcome.other_error = rendered.error().message;
  }
  return outcome;
}

using CaseCheck = std::function<Outcome(const OrderedJson&)>;

void run_rows(const std::string& path, const std::string& group, const CaseCheck& run,
              Report& report) {
  const auto text = read_file(path);
  if (!text.ok()) return report.fail(group + "/file", text.error().message);
  std::istringstream lines(text.value());
  std::string line;
  int number = 0;
  while (std::getline(lines, line)) {
    ++number;
    auto row = parse_ordered_json(line, fmt::format("{}:{}", path, number));
    if (!row.ok()) {
      report.fail(fmt::format("{}/{}", group, number), row.error().message);
      continue;
    }
    // A slash would begin a new group in the report.
    std::string name = row.value().value("name", std::to_string(number));
    std::replace(name.begin(), name.end(), '/', '_');
    const auto problem = compare(run(row.value()), row.value());
    if (problem) {
      report.fail(fmt::format("{}/{}", group, name), *problem);
    } else {
      report.pass(fmt::format("{}/{}", group, name));
    }
  }
}

void run_chat(const std::string& folder, Report& report) {
  const auto source = read_file(folder + "/chat_template.jinja");
  if (!source.ok()) return report.fail("template/chat/file", source.error().message);
  // The special tokens of the tokenizer the goldens were rendered with.
  const OrderedJson tokens = {{"eos_token", "<|im_end|>"}, {"pad_token", "<|endoftext|>"}};
  const auto chat_template = ChatTemplate::parse(source.value(), tokens);
  if (!chat_template.ok()) return report.fail("template/chat/parse", chat_template.error().message);
  run_rows(
      folder + "/chat.jsonl", "template/chat",
      [&](const OrderedJson& row) { return run_chat_case(chat_template.value(), row); }, report);
}

void run_jinja(const std::string& folder, Report& report) {
  const std::string path = folder + "/jinja_context.json";
  const auto text = read_file(path);
  if (!text.ok()) return report.fail("template/jinja/context", text.error().message);
  const auto context = parse_ordered_json(text.value(), path);
  if (!context.ok()) return report.fail("template/jinja/context", context.error().message);
  run_rows(
      folder + "/jinja.jsonl", "template/jinja",
      [&](const OrderedJson& row) { return run_template_case(row, context.value()); }, report);
}

}  // namespace

bool run_template_family(const std::string& folder, Report& report) {
  const int failed_before = report.failed();
  // A folder may hold either kind alone.
  const bool has_jinja = file_exists(folder + "/jinja.jsonl");
  const bool has_chat = file_exists(folder + "/chat.jsonl");
  if (has_chat) run_chat(folder, report);
  if (has_jinja) run_jinja(folder, report);
  if (!has_chat && !has_jinja) {
    report.fail("template/files", folder + ": neither chat.jsonl nor jinja.jsonl");
  }
  return report.failed() == failed_before;
}

}  // namespace nibble::golden
