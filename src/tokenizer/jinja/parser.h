// Parses a template into a SyntaxTree, and refuses what the interpreter does not know.
//
// Grammar and precedence are those of jinja2 3.1 (for instance: unary minus binds tighter than **,
// and ** associates to the left). Unknown filters and tests are refused here, except inside `if`
// bodies and inline conditions, where the reference waits until they are used.
#pragma once

#include "tokenizer/jinja/ast.h"
#include "tokenizer/jinja/lexer.h"

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace nibble::tokenizer::jinja {

struct ParseResult {
  std::unique_ptr<SyntaxTree> tree;  // null on failure
  std::optional<JinjaError> error;
};

/// The source must be valid UTF-8.
ParseResult parse_template(std::string_view source);

/// The token stream and everything statements and expressions share. Failures: the first one wins,
/// and the stream jumps to its end so that every loop below stops.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens);
  ParseResult run();

 private:
  // One per function the template defines: which of the special names its body reads.
  struct MacroNames {
    std::set<std::string> stored;
    bool caller = false;
    bool kwargs = false;
    bool varargs = false;
  };

  // Token stream.
  const Token& current() const { return tokens_[at_]; }
  const Token& look() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  bool is(TokenType type) const { return current().type == type; }
  bool is_name(std::string_view text) const {
    return is(TokenType::name) && current().text == text;
  }
  Token next();
  bool skip_if(TokenType type);
  bool skip_if_name(std::string_view text);
  Token expect(TokenType type);
  void expect_name(std::string_view text);
  bool failed() const { return error_.has_value(); }
  void fail(std::string message, Position position, ErrorKind kind = ErrorKind::syntax_error);
  void fail_unexpected(const std::string& wanted);

  // Statements (parser.cc).
  Body parse_body(const std::vector<std::string_view>& end_names);
  Body parse_block_body(const std::vector<std::string_view>& end_names);
  Body parse_last_body(std::string_view end_name);
  std::unique_ptr<Statement> parse_statement();
  void parse_simple_statement(const std::string& tag, Statement& statement);
  void parse_if(Statement& statement);
  void parse_for(Statement& statement);
  void parse_set(Statement& statement);
  void parse_macro(Statement& statement);
  void parse_call_block(Statement& statement);
  void parse_filter_block(Statement& statement);
  void parse_with(Statement& statement);
  void parse_block(Statement& statement);
  void parse_print(Statement& statement);
  void parse_loop_control(const std::string& tag, Statement& statement);
  void parse_signature(Macro& macro);
  void parse_function_body(Macro& macro, std::string_view end_name);
  void fail_unknown_tag(const Token& token);

  // Assignment targets.
  ExpressionPtr parse_target(bool allows_tuple, bool allows_namespace);
  ExpressionPtr parse_single_target(bool allows_namespace);
  Symbol parse_target_name();
  bool check_assignable(const std::string& name, Position position);

  // Expressions (parser_expressions.cc), loosest first.
  ExpressionPtr parse_tuple(bool with_condition, bool explicit_parentheses,
                            std::string_view end_name = {});
  ExpressionPtr parse_expression(bool with_condition = true);
  ExpressionPtr parse_condition();
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concat();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filter);

  // Operands (parser_operands.cc).
  ExpressionPtr parse_primary();
  ExpressionPtr parse_name();
  ExpressionPtr parse_number();
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr node);
  ExpressionPtr parse_filter_expression(ExpressionPtr node);
  ExpressionPtr parse_subscript(ExpressionPtr node);
  ExpressionPtr parse_subscribed(ExpressionPtr object);
  ExpressionPtr parse_call(ExpressionPtr node);
  ExpressionPtr parse_filter(ExpressionPtr node, bool start_inline);
  ExpressionPtr parse_test(ExpressionPtr node);
  std::unique_ptr<Arguments> parse_arguments();
  std::string parse_dotted_name();
  bool starts_test_argument() const;
  void check_filter(const std::string& name, Position position);
  void check_test(const std::string& name, Position position);

  ExpressionPtr make(ExpressionKind kind, Position position) const;
  ExpressionPtr make(ExpressionKind kind, Position position, ExpressionPtr a,
                     ExpressionPtr b = nullptr);
  void adopt(Expression& parent, ExpressionPtr child);
  ExpressionPtr string_constant(const std::string& text, Position position);
  Symbol symbol(const std::string& name);
  void note_read(const std::string& name);
  void note_store(const std::string& name);

  // Bounds recursion of the parser; fails when too deep.
  class Nesting {
   public:
    explicit Nesting(Parser& parser);
    ~Nesting() { --parser_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    Parser& parser_;
  };

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
  bool is_soft_ = false;  // inside an if body or inline condition
  int loops_ = 0;  // loops around this place within the current function
  std::vector<std::string_view> open_ends_;  // for error messages
  std::vector<std::string> open_tags_;
  std::vector<MacroNames> macros_;
  std::set<std::string> blocks_;
  std::unique_ptr<SyntaxTree> tree_;
  std::unordered_map<std::string, Symbol> symbols_;
  std::unordered_map<std::string, Value> literals_;  // equal literals are one object, as in Python
  std::optional<JinjaError> error_;
  std::optional<JinjaError>
      unknown_name_;  // first unknown filter or test; reported if all else parses
};

}  // namespace nibble::tokenizer::jinja
