// A parsed Jinja template: parse once, render from any number of threads.
//
// Renders as the environment that transformers builds for chat templates: sandboxed (nothing can be
// changed or loaded), trim_blocks and lstrip_blocks on, no escaping, break and continue, a
// pass-through `generation` tag, JSON by plain rules. A hostile template ends with an error, never
// with a crash or a hang (Limits).
#pragma once

#include "base/json.h"
#include "base/result.h"
#include "tokenizer/jinja/error.h"
#include "tokenizer/jinja/runtime.h"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nibble::tokenizer::jinja {

struct SyntaxTree;

struct RenderOutcome {
  std::string text;  // empty on failure
  std::optional<JinjaError> error;
};

class Template {
 public:
  /// Refuses syntax errors, unknown tags, filters and tests, and parts of the language left out,
  /// with line and column (ErrorCode::unsupported). `detail` receives the failure as data when not
  /// null.
  static Result<Template> parse(std::string_view source, JinjaError* detail = nullptr);

  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();

  /// `variables`: the context, in any order; the JSON values must outlive the call only.
  RenderOutcome render(const std::vector<std::pair<std::string, const OrderedJson*>>& variables,
                       const Limits& limits = {}) const;

  /// The same for the members of one JSON object.
  RenderOutcome render(const OrderedJson& variables, const Limits& limits = {}) const;

 private:
  explicit Template(std::unique_ptr<const SyntaxTree> tree);

  std::unique_ptr<const SyntaxTree> tree_;
};

}  // namespace nibble::tokenizer::jinja
