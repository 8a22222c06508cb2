// Everything here must be equal to the golden; a case fails at its first difference.
#include "tests/golden/tokenizer_goldens.h"

#include "base/file.h"
#include "base/json.h"
#include "tokenizer/incremental_decoder.h"
#include "tokenizer/tokenizer.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <functional>
#include <optional>
#include <sstream>
#include <vector>

namespace nibble::golden {
namespace {

using tokenizer::AddedTokens;
using tokenizer::IncrementalDecoder;
using tokenizer::SkipSpecial;
using tokenizer::Tokenizer;

using Ids = std::vector<int32_t>;

// Nothing when equal, else a sentence with both sides.
template <typename Value>
std::optional<std::string> difference(const char* what, const Value& found, const Value& expected) {
  if (found == expected) return std::nullopt;
  return fmt::format("{}: found {}, expected {}", what, dump_json(Json(found)).substr(0, 200),
                     dump_json(Json(expected)).substr(0, 200));
}

std::optional<std::string> check_encode_case(const Tokenizer& tokenizer, const Json& row) {
  const auto text = row.at("text").get<std::string>();
  const auto ids = row.at("ids").get<Ids>();
  if (auto d = difference("ids", tokenizer.encode(text, AddedTokens::parse), ids)) return d;
  const Ids plain = row.contains("ids_plain") ? row["ids_plain"].get<Ids>() : ids;
  if (auto d = difference("ids_plain", tokenizer.encode(text, AddedTokens::as_text), plain))
    return d;
  const auto decoded = row.value("decoded", text);
  if (auto d = difference("decoded", tokenizer.decode(ids, SkipSpecial::no), decoded)) return d;
  const auto skipped = row.value("decoded_skip_special", decoded);
  if (auto d =
          difference("decoded_skip_special", tokenizer.decode(ids, SkipSpecial::yes), skipped)) {
    return d;
  }
  if (!row.contains("pieces")) return std::nullopt;
  return difference("pieces", tokenizer.pre_tokenize(text),
                    row["pieces"].get<std::vector<std::string>>());
}

std::optional<std::string> check_stream_case(const Tokenizer& tokenizer, const Json& row) {
  const auto ids = row.at("ids").get<Ids>();
  IncrementalDecoder decoder(tokenizer, SkipSpecial::no);
  IncrementalDecoder skipping(tokenizer, SkipSpecial::yes);
  std::vector<std::string> increments;
  std::string skipped;
  for (const int32_t id : ids) {
    increments.push_back(decoder.feed(id));
    skipped += skipping.feed(id);
  }
  skipped += skipping.flush();
  const auto expected = row.at("increments").get<std::vector<std::string>>();
  if (auto d = difference("increments", increments, expected)) return d;
  if (auto d = difference("flush", decoder.flush(), row.at("flush").get<std::string>())) return d;
  const auto text = row.at("text").get<std::string>();
  if (auto d = difference("text", tokenizer.decode(ids, SkipSpecial::no), text)) return d;
  const auto without = row.at("text_skip_special").get<std::string>();
  if (auto d = difference("text_skip_special", skipped, without)) return d;
  return difference("decoded text_skip_special", tokenizer.decode(ids, SkipSpecial::yes), without);
}

using CheckCase = std::function<std::optional<std::string>(const Tokenizer&, const Json&)>;

void run_lines(const std::string& path, const std::string& group, const Tokenizer& tokenizer,
               const CheckCase& check, Report& report) {
  if (!file_exists(path)) {
    report.skip(group, file_exists(path + ".xz") ? path + ".xz is packed: unpack it with xz -dk"
                                                 : path + " is not there");
    return;
  }
  const auto text = read_file(path);
  if (!text.ok()) return report.fail(group, text.error().message);
  std::istringstream lines(text.value());
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.empty()) continue;
    const auto row = parse_json(line, fmt::format("{}:{}", path, number));
    if (!row.ok()) {
      report.fail(fmt::format("{}/{}", group, number), row.error().message);
      continue;
    }
    std::string name = fmt::format("{}/{}", group, number);
    try {
      const std::string category = row.value().value("cat", "");
      if (!category.empty()) name = fmt::format("{}/{}/{}", group, category, number);
      const auto problem = check(tokenizer, row.value());
      problem ? report.fail(name, *problem) : report.pass(name);
    } catch (const Json::exception& e) {
      report.fail(name, fmt::format("{}:{}: malformed case: {}", path, number, e.what()));
    }
  }
}

}  // namespace

bool run_tokenizer_family(const std::string& folder, const std::string& tokenizer_file,
                          Report& report) {
  const std::string name = std::filesystem::path(folder).filename().string();
  const int failed_before = report.failed();
  const std::string own = folder + "/tokenizer.json";
  if (!file_exists(own) && file_exists(own + ".xz")) {
    report.skip(name, own + ".xz is packed: unpack it with xz -dk");
    return true;
  }
  const std::string path = file_exists(own) ? own : tokenizer_file;
  if (path.empty()) {
    report.skip(name, "no tokenizer.json in the folder and no --tokenizer FILE");
    return true;
  }
  const auto tokenizer = Tokenizer::load(path);
  if (!tokenizer.ok()) {
    report.fail(name, tokenizer.error().message);
    return false;
  }
  run_lines(folder + "/encode.jsonl", name + "/encode", tokenizer.value(), check_encode_case,
            report);
  run_lines(folder + "/stream.jsonl", name + "/stream", tokenizer.value(), check_stream_case,
            report);
  return report.failed() == failed_before;
}

}  // namespace nibble::golden
