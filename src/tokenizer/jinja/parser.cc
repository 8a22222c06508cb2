// Statements of the template language, and the parser's token stream.
#include "tokenizer/jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::tokenizer::jinja {
namespace {

constexpr int kMaxParserNesting = 100;

}  // namespace

Parser::Parser(std::vector<Token> tokens)
    : tokens_(std::move(tokens)), tree_(std::make_unique<SyntaxTree>()) {
  tree_->loop = symbol("loop");
  tree_->caller = symbol("caller");
  tree_->kwargs = symbol("kwargs");
  tree_->varargs = symbol("varargs");
}

ParseResult Parser::run() {
  tree_->body = parse_body({});
  ParseResult result;
  if (!error_) error_ = std::move(unknown_name_);
  if (failed()) {
    result.error = std::move(error_);
  } else {
    result.tree = std::move(tree_);
  }
  return result;
}

Parser::Nesting::Nesting(Parser& parser) : parser_(parser) {
  if (++parser_.nesting_ > kMaxParserNesting) {
    parser_.fail("the template is nested too deeply", parser_.current().position,
                 ErrorKind::recursion_error);
  }
}

Token Parser::next() {
  Token token = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool Parser::skip_if(TokenType type) {
  if (!is(type)) return false;
  next();
  return true;
}

bool Parser::skip_if_name(std::string_view text) {
  if (!is_name(text)) return false;
  next();
  return true;
}

Token Parser::expect(TokenType type) {
  if (!is(type)) fail_unexpected(describe_token_type(type));
  return next();
}

void Parser::expect_name(std::string_view text) {
  if (!is_name(text)) fail_unexpected(std::string(text));
  next();
}

void Parser::fail(std::string message, Position position, ErrorKind kind) {
  if (!error_) error_ = JinjaError{kind, std::move(message), position};
  at_ = tokens_.size() - 1;
}

void Parser::fail_unexpected(const std::string& wanted) {
  if (is(TokenType::end_of_template)) {
    return fail(fmt::format("unexpected end of template, expected '{}'.", wanted),
                current().position);
  }
  fail(fmt::format("expected token '{}', got '{}'", wanted, describe_token(current())),
       current().position);
}

Symbol Parser::symbol(const std::string& name) {
  const auto [found, is_new] = symbols_.try_emplace(name, static_cast<Symbol>(tree_->names.size()));
  if (is_new) tree_->names.push_back(name);
  return found->second;
}

void Parser::note_read(const std::string& name) {
  for (MacroNames& macro : macros_) {
    if (macro.stored.count(name) != 0) continue;
    macro.caller = macro.caller || name == "caller";
    macro.kwargs = macro.kwargs || name == "kwargs";
    macro.varargs = macro.varargs || name == "varargs";
  }
}

void Parser::note_store(const std::string& name) {
  for (MacroNames& macro : macros_) macro.stored.insert(name);
}

// Statements up to a tag of `end_names` (left in place), or to the end of the template when there
// are none.
Body Parser::parse_body(const std::vector<std::string_view>& end_names) {
  Body body;
  Nesting nesting(*this);
  std::unique_ptr<Statement> output;
  const auto flush = [&] {
    if (output) body.push_back(std::move(output));
    output.reset();
  };
  const auto print = [&](ExpressionPtr expression) {
    if (!output) {
      output = std::make_unique<Statement>();
      output->position = expression->position;
    }
    output->expressions.push_back(std::move(expression));
  };
  while (!failed() && !is(TokenType::end_of_template)) {
    const Token token = next();
    if (token.type == TokenType::data) {
      print(string_constant(token.text, token.position));
    } else if (token.type == TokenType::variable_begin) {
      ExpressionPtr expression = parse_tuple(true, false);
      expect(TokenType::variable_end);
      if (!failed()) print(std::move(expression));
    } else {
      flush();
      const bool ends = is(TokenType::name) && std::find(end_names.begin(), end_names.end(),
                                                         current().text) != end_names.end();
      if (ends) return body;
      auto statement = parse_statement();
      expect(TokenType::block_end);
      if (!failed()) body.push_back(std::move(statement));
    }
  }
  flush();
  if (!failed() && !end_names.empty()) {
    fail(fmt::format("Unexpected end of template. Jinja was looking for the following tags: '{}'. "
                     "The innermost block that needs to be closed is '{}'.",
                     fmt::join(end_names, "' or '"), open_tags_.empty() ? "" : open_tags_.back()),
         current().position);
  }
  return body;
}

// The rest of a tag and the body after it; the end tag's name is left as the current token.
Body Parser::parse_block_body(const std::vector<std::string_view>& end_names) {
  skip_if(TokenType::colon);
  expect(TokenType::block_end);
  if (failed()) return {};
  open_ends_.insert(open_ends_.end(), end_names.begin(), end_names.end());
  Body body = parse_body(end_names);
  open_ends_.resize(open_ends_.size() - end_names.size());
  return body;
}

Body Parser::parse_last_body(std::string_view end_name) {
  Body body = parse_block_body({end_name});
  next();
  return body;
}

std::unique_ptr<Statement> Parser::parse_statement() {
  auto statement = std::make_unique<Statement>();
  const Token token = current();
  statement->position = token.position;
  if (token.type != TokenType::name) {
    fail("tag name expected", token.position);
    return statement;
  }
  open_tags_.push_back(token.text);
  parse_simple_statement(token.text, *statement);
  open_tags_.pop_back();
  return statement;
}

void Parser::parse_simple_statement(const std::string& tag, Statement& statement) {
  const Token token = next();
  if (tag == "if") return parse_if(statement);
  if (tag == "for") return parse_for(statement);
  if (tag == "set") return parse_set(statement);
  if (tag == "macro") return parse_macro(statement);
  if (tag == "call") return parse_call_block(statement);
  if (tag == "filter") return parse_filter_block(statement);
  if (tag == "with") return parse_with(statement);
  if (tag == "block") return parse_block(statement);
  if (tag == "print") return parse_print(statement);
  if (tag == "break" || tag == "continue") return parse_loop_control(tag, statement);
  if (tag == "generation") {
    statement.kind = StatementKind::scope;
    statement.macro = std::make_unique<Macro>();
    return parse_function_body(*statement.macro, "endgeneration");
  }
  constexpr std::string_view kRefused[] = {"extends", "include", "import", "from", "autoescape"};
  if (std::find(std::begin(kRefused), std::end(kRefused), tag) != std::end(kRefused)) {
    return fail(fmt::format("the tag '{}' is not supported", tag), token.position,
                ErrorKind::unsupported_error);
  }
  fail_unknown_tag(token);
}

void Parser::fail_unknown_tag(const Token& token) {
  std::string message = fmt::format("Encountered unknown tag '{}'.", token.text);
  if (std::find(open_ends_.begin(), open_ends_.end(), token.text) != open_ends_.end()) {
    message += " You probably made a nesting mistake.";
  }
  if (!open_ends_.empty()) message += fmt::format(" Expected '{}'.", open_ends_.back());
  fail(std::move(message), token.position);
}

void Parser::parse_if(Statement& statement) {
  statement.kind = StatementKind::if_;
  const bool was_soft = std::exchange(is_soft_, true);
  while (!failed()) {
    Branch branch;
    branch.test = parse_tuple(false, false);
    branch.body = parse_block_body({"elif", "else", "endif"});
    statement.branches.push_back(std::move(branch));
    const Token token = next();
    if (token.text == "elif") continue;
    if (token.text == "else") statement.else_body = parse_last_body("endif");
    break;
  }
  is_soft_ = was_soft;
}

void Parser::parse_for(Statement& statement) {
  statement.kind = StatementKind::for_;
  statement.targets.push_back(parse_target(true, false));
  if (!failed() && statement.targets[0]->kind == ExpressionKind::name &&
      statement.targets[0]->symbol == tree_->loop) {
    fail("Can't assign to special loop variable in for-loop target", statement.position,
         ErrorKind::assertion_error);
  }
  expect_name("in");
  statement.value = parse_tuple(false, false, "recursive");
  const bool was_soft = std::exchange(is_soft_, false);
  if (skip_if_name("if")) statement.test = parse_expression();
  statement.is_recursive = skip_if_name("recursive");
  ++loops_;
  statement.body = parse_block_body({"endfor", "else"});
  --loops_;
  if (next().text == "else") statement.else_body = parse_last_body("endfor");
  is_soft_ = was_soft;
}

void Parser::parse_set(Statement& statement) {
  statement.targets.push_back(parse_target(true, true));
  if (skip_if(TokenType::assign)) {
    statement.kind = StatementKind::set;
    statement.value = parse_tuple(true, false);
    return;
  }
  statement.kind = StatementKind::set_block;
  const bool was_soft = std::exchange(is_soft_, false);
  statement.value = parse_filter(nullptr, false);
  statement.body = parse_last_body("endset");
  is_soft_ = was_soft;
}

void Parser::parse_macro(Statement& statement) {
  statement.kind = StatementKind::macro;
  statement.macro = std::make_unique<Macro>();
  statement.symbol = parse_target_name();
  if (failed()) return;
  statement.macro->name = tree_->names[static_cast<size_t>(statement.symbol)];
  parse_function_body(*statement.macro, "endmacro");
}

void Parser::parse_call_block(Statement& statement) {
  statement.kind = StatementKind::call_block;
  statement.macro = std::make_unique<Macro>();
  statement.macro->name = "caller";
  const Position position = current().position;
  const bool has_signature = is(TokenType::left_parenthesis);
  if (has_signature) parse_signature(*statement.macro);
  statement.value = parse_expression();
  if (!failed() && statement.value->kind != ExpressionKind::call) {
    fail("expected call", position);
  }
  parse_function_body(*statement.macro, "endcall");
}

// The signature (for macros, which have it here) and the body of something called later: a new
// function, so loops outside do not count and names read inside are noted.
void Parser::parse_function_body(Macro& macro, std::string_view end_name) {
  const bool was_soft = std::exchange(is_soft_, false);
  const int outer_loops = std::exchange(loops_, 0);
  macros_.emplace_back();
  if (end_name == "endmacro") parse_signature(macro);
  macro.body = parse_last_body(end_name);
  macro.uses_caller = macros_.back().caller;
  const auto is_parameter = [&](Symbol name) {
    return std::find(macro.parameters.begin(), macro.parameters.end(), name) !=
           macro.parameters.end();
  };
  macro.uses_kwargs = macros_.back().kwargs && !is_parameter(tree_->kwargs);
  macro.uses_varargs = macros_.back().varargs && !is_parameter(tree_->varargs);
  macros_.pop_back();
  loops_ = outer_loops;
  is_soft_ = was_soft;
  const size_t without_default = macro.parameters.size() - macro.defaults.size();
  for (size_t i = 0; i < without_default && macro.uses_caller && !failed(); ++i) {
    if (macro.parameters[i] != tree_->caller) continue;
    fail(
        "When defining macros or call blocks the special \"caller\" argument must be omitted or be "
        "given a default.",
        current().position, ErrorKind::assertion_error);
  }
}

void Parser::parse_signature(Macro& macro) {
  expect(TokenType::left_parenthesis);
  while (!failed() && !is(TokenType::right_parenthesis)) {
    if (!macro.parameters.empty()) expect(TokenType::comma);
    const Position position = current().position;
    const std::string name = expect(TokenType::name).text;
    if (!check_assignable(name, position)) return;
    const Symbol parameter = symbol(name);
    const bool repeated = std::find(macro.parameters.begin(), macro.parameters.end(), parameter) !=
                          macro.parameters.end();
    if (repeated) fail("a parameter appears twice", position);
    if (skip_if(TokenType::assign)) {
      macro.defaults.push_back(parse_expression());
    } else if (!macro.defaults.empty()) {
      fail("non-default argument follows default argument", position);
    }
    macro.parameters.push_back(parameter);
  }
  expect(TokenType::right_parenthesis);
}

void Parser::parse_filter_block(Statement& statement) {
  statement.kind = StatementKind::filter_block;
  const bool was_soft = std::exchange(is_soft_, false);
  statement.value = parse_filter(nullptr, true);
  statement.body = parse_last_body("endfilter");
  is_soft_ = was_soft;
}

void Parser::parse_with(Statement& statement) {
  statement.kind = StatementKind::with;
  const bool was_soft = std::exchange(is_soft_, false);
  while (!failed() && !is(TokenType::block_end)) {
    if (!statement.targets.empty()) expect(TokenType::comma);
    statement.targets.push_back(parse_target(true, false));
    expect(TokenType::assign);
    statement.expressions.push_back(parse_expression());
  }
  statement.body = parse_last_body("endwith");
  is_soft_ = was_soft;
}

// Without inheritance a block is its body in a scope that sees only top-level names (or, if
// `scoped`, all).
void Parser::parse_block(Statement& statement) {
  statement.kind = StatementKind::block;
  const Token name = expect(TokenType::name);
  statement.is_scoped = skip_if_name("scoped");
  if (is_name("required")) {
    return fail("'required' blocks are not supported", current().position,
                ErrorKind::unsupported_error);
  }
  if (!failed() && !blocks_.insert(name.text).second) {
    return fail(fmt::format("block '{}' defined twice", name.text), name.position,
                ErrorKind::assertion_error);
  }
  const bool was_soft = std::exchange(is_soft_, false);
  const int outer_loops = std::exchange(loops_, 0);
  statement.body = parse_last_body("endblock");
  loops_ = outer_loops;
  is_soft_ = was_soft;
  skip_if_name(name.text);
}

void Parser::parse_print(Statement& statement) {
  statement.kind = StatementKind::output;
  while (!failed() && !is(TokenType::block_end)) {
    if (!statement.expressions.empty()) expect(TokenType::comma);
    statement.expressions.push_back(parse_expression());
  }
}

void Parser::parse_loop_control(const std::string& tag, Statement& statement) {
  statement.kind = tag == "break" ? StatementKind::break_ : StatementKind::continue_;
  if (loops_ == 0) fail(fmt::format("'{}' outside loop", tag), statement.position);
}

ExpressionPtr Parser::parse_target(bool allows_tuple, bool allows_namespace) {
  const Position position = current().position;
  ExpressionPtr first = parse_single_target(allows_namespace);
  if (!allows_tuple || failed() || !is(TokenType::comma)) return first;
  ExpressionPtr tuple = make(ExpressionKind::tuple, position);
  adopt(*tuple, std::move(first));
  while (!failed() && skip_if(TokenType::comma)) {
    // A trailing comma is allowed, as in Python.
    if (is(TokenType::assign) || is(TokenType::block_end) || is_name("in") ||
        is(TokenType::right_parenthesis)) {
      break;
    }
    adopt(*tuple, parse_single_target(allows_namespace));
  }
  return tuple;
}

ExpressionPtr Parser::parse_single_target(bool allows_namespace) {
  Nesting nesting(*this);
  const Token token = current();
  if (failed()) return make(ExpressionKind::constant, token.position);
  if (skip_if(TokenType::left_parenthesis)) {
    ExpressionPtr inner = parse_target(true, allows_namespace);
    expect(TokenType::right_parenthesis);
    return inner;
  }
  if (token.type != TokenType::name) {
    fail(fmt::format("can't assign to '{}'", describe_token(token)), token.position);
    return make(ExpressionKind::constant, token.position);
  }
  if (allows_namespace && look().type == TokenType::dot) {
    next();
    next();
    const Token attribute = expect(TokenType::name);
    ExpressionPtr target = make(ExpressionKind::namespace_target, token.position);
    target->symbol = symbol(token.text);
    target->text = attribute.text;
    note_read(token.text);
    return target;
  }
  ExpressionPtr target = make(ExpressionKind::name, token.position);
  target->symbol = parse_target_name();
  return target;
}

Symbol Parser::parse_target_name() {
  const Token token = expect(TokenType::name);
  if (!check_assignable(token.text, token.position)) return 0;
  note_store(token.text);
  return symbol(token.text);
}

bool Parser::check_assignable(const std::string& name, Position position) {
  constexpr std::string_view kReserved[] = {"true", "false", "none", "True", "False", "None"};
  if (std::find(std::begin(kReserved), std::end(kReserved), name) != std::end(kReserved)) {
    fail(fmt::format("can't assign to '{}'", name), position);
  }
  return !failed();
}

ParseResult parse_template(std::string_view source) {
  LexResult lexed = lex_template(source);
  if (!lexed.error) return Parser(std::move(lexed.tokens)).run();
  ParseResult result;
  result.error = std::move(lexed.error);
  return result;
}

}  // namespace nibble::tokenizer::jinja
