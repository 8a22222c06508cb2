// What the golden families say about their cases, and how it is printed.
//
// A case is named "family/group/case"; everything before the last '/' is its group. Every failure
// and skip is printed at once with its detail, every group as one line with the largest deviation
// seen.
#pragma once

#include <map>
#include <string>

namespace nibble::golden {

class Report {
 public:
  /// A case that agrees. deviation: how far from the golden, in the family's own measure; 0 for
  /// cases that must be equal. detail: what the number means ("max|a-b|/max|b|").
  void pass(const std::string& name, double deviation = 0, const std::string& detail = "");

  /// A case that does not. detail says what was found and what was expected.
  void fail(const std::string& name, const std::string& detail, double deviation = 0);

  /// Something known by name that was not run, and why.
  void skip(const std::string& name, const std::string& reason);

  /// Prints the groups that were not printed yet (call after each family).
  void print_groups();

  /// Prints the last line: "N passed, N failed, N skipped".
  void print_summary() const;

  int passed() const { return passed_; }
  int failed() const { return failed_; }
  int skipped() const { return skipped_; }

 private:
  struct Group {
    int passed = 0;
    int failed = 0;
    double largest_deviation = 0;
    std::string largest_case;  // empty while every deviation is 0
    std::string detail;
  };

  Group& note(const std::string& name, double deviation, const std::string& detail);

  std::map<std::string, Group> groups_;
  int passed_ = 0;
  int failed_ = 0;
  int skipped_ = 0;
};

}  // namespace nibble::golden
