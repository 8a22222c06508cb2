#include "cli/calibration_text.h"

#include "base/compressed_file.h"
#include "base/json.h"
#include "eval/documents.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

namespace nibble::cli {
namespace {

using tokenizer::AddedTokens;
using tokenizer::ChatTemplate;
using tokenizer::Tokenizer;

constexpr const char* kRecordForms =
    "expected an object with \"text\", \"article\" or \"messages\"";

Error bad(const std::string& what, const std::string& problem) {
  return Error{ErrorCode::invalid_argument, what + ": " + problem};
}

// The chat template of a model directory, loaded when the first record needs it.
class Renderer {
 public:
  explicit Renderer(std::string directory) : directory_(std::move(directory)) {}

  /// A whole conversation: nothing is appended to be answered.
  Result<std::string> render(const OrderedJson& record, const std::string& what) {
    if (!template_) {
      NIBBLE_ASSIGN_OR_RETURN(template_, ChatTemplate::load(directory_));
    }
    tokenizer::ChatRequest request;
    auto messages = tokenizer::messages_for_template(record["messages"]);
    if (!messages.ok()) return bad(what, messages.error().message);
    request.messages = std::move(messages).value();
    if (record.contains("tools")) request.tools = record["tools"];
    if (record.contains("thinking")) request.variables["enable_thinking"] = record["thinking"];
    auto text = template_->render(request);
    if (!text.ok()) return bad(what, text.error().message);
    return text;
  }

 private:
  std::string directory_;
  std::optional<ChatTemplate> template_;
};

// Text of one record.
Result<std::string> record_text(const OrderedJson& record, Renderer& chat,
                                const std::string& what) {
  if (!record.is_object()) return bad(what, kRecordForms);
  for (const char* field : {"text", "article"}) {
    if (!record.contains(field)) continue;
    if (!record[field].is_string()) return bad(what, fmt::format("{}: expected text", field));
    return record[field].get<std::string>();
  }
  if (!record.contains("messages")) return bad(what, kRecordForms);
  if (!record["messages"].is_array() || record["messages"].empty()) {
    return bad(what, "messages: expected an array of messages");
  }
  if (record.contains("thinking") && !record["thinking"].is_boolean()) {
    return bad(what, "thinking: expected true or false");
  }
  return chat.render(record, what);
}

class Reader {
 public:
  Reader(const Tokenizer& tokenizer, size_t max_sequences, size_t max_tokens)
      : tokenizer_(tokenizer), max_sequences_(max_sequences), max_tokens_(max_tokens) {}

  bool full() const { return out_.sequences.size() >= max_sequences_; }

  Result<void> add(const std::string& text, const std::string& what) {
    std::vector<int32_t> ids = tokenizer_.encode(text, AddedTokens::parse);
    if (ids.empty()) return bad(what, "no text");
    if (ids.size() > max_tokens_) {
      ++out_.shortened;
      ids.resize(max_tokens_);
    }
    out_.sequences.push_back(std::move(ids));
    return {};
  }

  void add_pieces(const std::string& text) {
    const std::vector<int32_t> ids = tokenizer_.encode(text, AddedTokens::parse);
    for (size_t first = 0; first < ids.size() && !full(); first += max_tokens_) {
      const size_t last = std::min(ids.size(), first + max_tokens_);
      out_.sequences.emplace_back(ids.begin() + static_cast<std::ptrdiff_t>(first),
                                  ids.begin() + static_cast<std::ptrdiff_t>(last));
    }
  }

  Result<CalibrationText> result(const std::string& path) {
    if (out_.sequences.empty()) return bad(path, "no calibration samples in it");
    return std::move(out_);
  }

 private:
  const Tokenizer& tokenizer_;
  size_t max_sequences_, max_tokens_;
  CalibrationText out_;
};

Result<void> read_records(const std::string& path, std::string_view text, Renderer& chat,
                          Reader& reader) {
  for (int64_t number = 1; !text.empty() && !reader.full(); ++number) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string what = fmt::format("{}: line {}", path, number);
    const auto record = parse_ordered_json(line, what);
    if (!record.ok()) return Error{ErrorCode::invalid_argument, record.error().message};
    NIBBLE_ASSIGN_OR_RETURN(const std::string sample, record_text(record.value(), chat, what));
    NIBBLE_RETURN_IF_ERROR(reader.add(sample, what));
  }
  return {};
}

Result<void> read_documents(const std::string& path, const std::string& text, Reader& reader) {
  const std::vector<std::string> documents = eval::split_documents(text);
  if (documents.size() == 1) {
    reader.add_pieces(documents.front());
    return {};
  }
  for (size_t i = 0; i < documents.size() && !reader.full(); ++i) {
    NIBBLE_RETURN_IF_ERROR(reader.add(documents[i], fmt::format("{}: document {}", path, i + 1)));
  }
  return {};
}

}  // namespace

Result<CalibrationText> read_calibration_text(const std::string& path,
                                              const std::string& model_directory,
                                              size_t max_sequences, size_t max_tokens) {
  const std::string_view name = uncompressed_name(path);
  if (!name.ends_with(".jsonl") && !name.ends_with(".txt")) {
    return bad(path, "expected a file that ends in .jsonl or .txt, and then perhaps .gz or .zst");
  }
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_text_file(path));
  NIBBLE_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(model_directory));
  Reader reader(tokenizer, max_sequences, max_tokens);
  if (name.ends_with(".jsonl")) {
    Renderer chat(model_directory);
    NIBBLE_RETURN_IF_ERROR(read_records(path, text, chat, reader));
  } else {
    NIBBLE_RETURN_IF_ERROR(read_documents(path, text, reader));
  }
  return reader.result(path);
}

}  // namespace nibble::cli
