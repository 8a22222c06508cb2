#include "eval/documents.h"

namespace nibble::eval {
namespace {

constexpr std::string_view kSeparator = "<|endoftext|>";
constexpr std::string_view kBlank = " \t\r\n\v\f";

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

}  // namespace

std::vector<std::string> split_documents(std::string_view text) {
  std::vector<std::string> documents;
  std::string current;
  const auto flush = [&] {
    const std::string_view document = trimmed(current);
    if (!document.empty()) documents.emplace_back(document);
    current.clear();
  };
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    if (trimmed(line) == kSeparator) {
      flush();
    } else {
      current += line;
      if (end != std::string_view::npos) current += '\n';
    }
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
  flush();
  return documents;
}

}  // namespace nibble::eval
