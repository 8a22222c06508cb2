// Tests of the interpreter as a whole: cases rendered by the reference, refusals with their place,
// limits.
//
// testdata/jinja/cases.jsonl holds our own templates with what jinja2 makes of them in
// transformers' environment (tools/make_jinja_cases.py); goldens/template/jinja.jsonl is checked by
// golden_runner.
#include "tokenizer/jinja/template.h"

#include "base/file.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <sstream>
#include <thread>

namespace nibble::tokenizer::jinja {
namespace {

OrderedJson read_context() {
  const std::string path = "testdata/goldens/template/jinja_context.json";
  const auto text = read_file(path);
  EXPECT_TRUE(text.ok());
  return parse_ordered_json(text.value(), path).value();
}

RenderOutcome render(const std::string& source, const OrderedJson& context = OrderedJson::object(),
                     const Limits& limits = {}) {
  RenderOutcome outcome;
  JinjaError detail;
  const auto parsed = Template::parse(source, &detail);
  if (parsed.ok()) return parsed.value().render(context, limits);
  outcome.error = detail;
  return outcome;
}

std::string render_text(const std::string& source,
                        const OrderedJson& context = OrderedJson::object()) {
  const RenderOutcome outcome = render(source, context);
  return outcome.error ? "error: " + outcome.error->to_string() : outcome.text;
}

// Classes the reference raises where we refuse at parse time or have no class of that name.
bool same_error_class(const std::string& expected, const JinjaError& found) {
  const std::string name = error_kind_name(found.kind);
  if (expected == name || found.kind == ErrorKind::unsupported_error) return true;
  if (expected == "SyntaxError") return name == "TemplateSyntaxError";
  if (expected == "RuntimeError") return name == "TemplateRuntimeError";
  return expected == "IndexError" || expected == "AttributeError" || expected == "AssertionError";
}

TEST(Template, RendersAsTheReferenceDoes) {
  const OrderedJson context = read_context();
  const auto text = read_file("testdata/jinja/cases.jsonl");
  ASSERT_TRUE(text.ok());
  std::istringstream lines(text.value());
  std::string line;
  int count = 0;
  while (std::getline(lines, line)) {
    const auto row = parse_ordered_json(line, "cases.jsonl").value();
    if (!row.contains("template")) continue;
    ++count;
    const auto source = row["template"].get<std::string>();
    const RenderOutcome outcome = render(source, context);
    if (row.contains("text")) {
      EXPECT_FALSE(outcome.error) << source << "\n" << outcome.error->to_string();
      EXPECT_EQ(outcome.text, row["text"].get<std::string>()) << source;
      continue;
    }
    const auto error_type = row["error_type"].get<std::string>();
    ASSERT_TRUE(outcome.error) << source << "\nrendered " << outcome.text;
    EXPECT_TRUE(same_error_class(error_type, *outcome.error))
        << source << "\n"
        << error_type << " expected, " << outcome.error->to_string();
    if (error_type == "TemplateError") {
      EXPECT_EQ(outcome.error->message, row["error"].get<std::string>());
    }
  }
  EXPECT_GT(count, 600);
}

struct Refusal {
  const char* source;
  int line;
  int column;
};

TEST(Template, RefusesWithLineAndColumn) {
  const Refusal refusals[] = {
      {"{% include 'a' %}", 1, 4},
      {"a\nbc {% extends 'x' %}", 2, 7},
      {"{{ x | urlize }}", 1, 8},
      {"\n\n  {{ nosuch | nosuchfilter }}", 3, 15},
      {"{{ x is nosuchtest }}", 1, 9},
      {"{% if x %}\n{% endfor %}{% endif %}", 2, 4},
      {"{% unknown %}", 1, 4},
      {"\xC3\xA4\xC3\xB6 {{ lipsum() }}", 1, 7},
      {"{{ 1 + }}", 1, 8},
      {"{% break %}", 1, 4},
      {"{{ (1 }}", 1, 7},
      {"x {# never", 1, 3},
      {"{% autoescape true %}{% endautoescape %}", 1, 4},
  };
  for (const Refusal& refusal : refusals) {
    JinjaError detail;
    const auto parsed = Template::parse(refusal.source, &detail);
    ASSERT_FALSE(parsed.ok()) << refusal.source;
    EXPECT_EQ(detail.position.line, refusal.line) << refusal.source;
    EXPECT_EQ(detail.position.column, refusal.column) << refusal.source;
    EXPECT_EQ(parsed.error().code, ErrorCode::unsupported);
    EXPECT_NE(parsed.error().message.find("line "), std::string::npos);
  }
}

TEST(Template, RunTimeErrorsHaveAPlaceToo) {
  const RenderOutcome outcome = render("ab\n{% if true %}\n  {{ 1 }}{{ nothing.x }}\n{% endif %}");
  ASSERT_TRUE(outcome.error);
  EXPECT_EQ(outcome.error->kind, ErrorKind::undefined_error);
  EXPECT_EQ(outcome.error->position.line, 3);
  EXPECT_EQ(outcome.error->to_string(),
            "UndefinedError: 'nothing' is undefined (line 3, column 20)");
}

TEST(Template, RefusesInvalidUtf8) {
  EXPECT_FALSE(Template::parse("a\xFF").ok());
}

TEST(Template, KeepsKeyOrderAndNumbersOfJson) {
  const auto context =
      parse_ordered_json(R"({"o": {"z": 1, "a": 2.0, "m": 18446744073709551615}})", "test").value();
  EXPECT_EQ(render_text("{{ o | tojson }} {{ o.m + 1 }}", context),
            R"({"z": 1, "a": 2.0, "m": 18446744073709551615} 18446744073709551616)");
}

TEST(Template, LargeDictionariesKeepOrderAndFindKeys) {
  EXPECT_EQ(
      render_text("{% set ns = namespace(d={}) %}{% for i in range(40) %}"
                  "{% set ns.d = dict(ns.d, **{'k' ~ i: i}) %}{% endfor %}"
                  "{{ ns.d.k0 }} {{ ns.d['k39'] }} {{ ns.d | length }} {{ ns.d.k40 is defined }} "
                  "{{ ns.d.keys() | first }} {{ ns.d.keys() | last }}"),
      "0 39 40 False k0 k39");
}

TEST(Template, TimeIsFormatted) {
  EXPECT_EQ(render_text("{{ strftime_now('%%') }}{{ strftime_now('%Y-%m-%d') | length }}"), "%10");
}

// Each of these would run for ever, or eat the memory or the stack, without limits.
TEST(Template, HostileTemplatesEnd) {
  const char* hostile[] = {
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{{ 'a' * 1000000000000 }}",
      "{{ [1] * 100000000000 }}",
      "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x * 9 %}{% endfor "
      "%}",
      "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% "
      "endfor %}"
      "{{ ns.x }}",
      "{{ 9 ** (9 ** 9) }}",
      "{{ '%999999999d' % 1 }}",
      "{{ '{:999999999}'.format(1) }}",
      "{{ 'a'.center(9999999999) }}",
      "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
      "{% for i in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 99 }}{% "
      "endfor %}",
  };
  Limits limits;
  limits.max_steps = 300'000;
  limits.max_made_bytes = 32 << 20;
  limits.max_output_bytes = 8 << 20;
  for (const char* source : hostile) {
    const RenderOutcome outcome = render(source, OrderedJson::object(), limits);
    ASSERT_TRUE(outcome.error) << source;
    const ErrorKind kind = outcome.error->kind;
    EXPECT_TRUE(kind == ErrorKind::limit_error || kind == ErrorKind::recursion_error)
        << source << " " << outcome.error->to_string();
  }
}

TEST(Template, DeepSourceIsRefused) {
  const auto repeated = [](const std::string& part, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += part;
    return out;
  };
  for (const std::string& source :
       {"{{ " + repeated("(", 100000), "{{ " + repeated("[", 100000), "{{ " + repeated("-", 100000),
        "{{ " + repeated("not ", 100000), repeated("{% if x %}", 100000),
        "{{ 1" + repeated(" + 1", 100000) + " }}", "{{ x" + repeated(".x", 100000) + " }}",
        "{{ x" + repeated("|e", 100000) + " }}",
        "{{ 1" + repeated(" if 1 else 1", 100000) + " }}"}) {
    JinjaError detail;
    EXPECT_FALSE(Template::parse(source, &detail).ok());
    EXPECT_EQ(detail.kind, ErrorKind::recursion_error) << source.substr(0, 20);
  }
}

TEST(Template, RendersFromSeveralThreadsAtOnce) {
  const auto parsed = Template::parse(
      "{% macro m(x) %}<{{ x }}>{% endmacro %}{% for i in range(200) %}{{ m(i ~ who) }}{% endfor "
      "%}");
  ASSERT_TRUE(parsed.ok());
  std::vector<std::string> texts(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < texts.size(); ++i) {
    threads.emplace_back([&, i] {
      const OrderedJson context = {{"who", std::string(1, static_cast<char>('a' + i))}};
      texts[i] = parsed.value().render(context).text;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string who(1, static_cast<char>('a' + i));
    EXPECT_EQ(texts[i].substr(0, 8), "<0" + who + "><1" + who + ">");
    EXPECT_EQ(texts[i].substr(texts[i].size() - 6), "<199" + who + ">");
  }
}

}  // namespace
}  // namespace nibble::tokenizer::jinja
