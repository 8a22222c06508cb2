// Command line -> Command. The only file that knows CLI11 (nine seconds of compile time) is
// arguments.cc.
#pragma once

#include "cli/options.h"

#include <string>
#include <variant>
#include <vector>

namespace nibble::cli {

/// Parsing ended without a command: help or version was printed (code 0), or usage was wrong (code
/// 2).
struct ParseExit {
  int code = 0;
  std::string text;  // to standard output when code is 0, else to standard error
};

/// `arguments` without the program's name. Flags may be spelled with - or _, take --flag=value, and
/// read NIBBLE_<FLAG> from the environment (the command line wins).
std::variant<Command, ParseExit> parse_arguments(std::vector<std::string> arguments);

/// The most similar of `known`, or empty when none is close.
std::string nearest_name(const std::string& name, const std::vector<std::string>& known);

}  // namespace nibble::cli
