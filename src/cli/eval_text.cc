#include "cli/eval_text.h"

#include "base/compressed_file.h"
#include "base/hash.h"
#include "eval/documents.h"
#include "eval/wikitext.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

namespace nibble::cli {
namespace {

using eval::ScoredSequence;

// Documents mode: this many tokens of a document and the end-of-text token.
constexpr size_t kDocumentTokens = 2047;

constexpr int64_t kDefaultContext = 512;

std::vector<int32_t> encode(const tokenizer::Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.encode(text, tokenizer::AddedTokens::parse);
}

// "--limit N" of documents, before they are cut into sequences.
void limit_documents(std::vector<std::string>& documents, const EvalOptions& options) {
  if (options.limit > 0) {
    documents.resize(std::min(documents.size(), static_cast<size_t>(options.limit)));
  }
}

Result<void> add_documents(const std::string& text, const EvalOptions& options,
                           const tokenizer::Tokenizer& tokenizer, EvalText& out) {
  const std::optional<int32_t> end = tokenizer.token_id("<|endoftext|>");
  if (!end) return Error{ErrorCode::unsupported, "the tokenizer has no token <|endoftext|>"};
  std::vector<std::string> documents = eval::split_documents(text);
  limit_documents(documents, options);
  bool is_whole = true;
  for (const std::string& document : documents) {
    std::vector<int32_t> ids = encode(tokenizer, document);
    if (ids.empty()) continue;
    is_whole = is_whole && ids.size() <= kDocumentTokens;
    ids.resize(std::min(ids.size(), kDocumentTokens));
    ids.push_back(*end);
    out.sequences.push_back({std::move(ids), 1});
    out.bytes += static_cast<int64_t>(document.size());
  }
  if (!is_whole) out.bytes = 0;
  out.unit = "documents";
  out.documents = static_cast<int64_t>(out.sequences.size());
  return {};
}

Result<void> add_articles(const std::string& text, const EvalOptions& options,
                          const tokenizer::Tokenizer& tokenizer, EvalText& out) {
  const std::optional<int32_t> bos = tokenizer.bos_token_id();
  const std::optional<int32_t> prefix = bos ? bos : tokenizer.eos_token_id();
  if (!prefix) {
    return Error{ErrorCode::unsupported,
                 "mode harness needs a BOS or EOS token, and the tokenizer names neither"};
  }
  std::vector<std::string> articles = eval::split_articles(text);
  limit_documents(articles, options);
  for (const std::string& article : articles) {
    const std::vector<int32_t> ids = encode(tokenizer, eval::detokenize_article(article));
    for (ScoredSequence& window : eval::rolling_windows(ids, *prefix, out.context)) {
      out.sequences.push_back(std::move(window));
    }
    out.words += eval::count_words(article);
    out.bytes += static_cast<int64_t>(article.size());
  }
  out.unit = "windows";
  out.documents = static_cast<int64_t>(articles.size());
  return {};
}

Result<void> add_windows(const std::string& text, const EvalOptions& options,
                         const tokenizer::Tokenizer& tokenizer, EvalText& out) {
  const std::vector<int32_t> ids = encode(tokenizer, text);
  const int64_t stride = options.stride > 0 ? options.stride : out.context / 2;
  auto windows = options.mode == "llama" ? eval::half_scored_windows(ids, out.context)
                                         : eval::sliding_windows(ids, out.context, stride);
  if (!windows.ok()) return windows.error();
  out.sequences = std::move(windows).value();
  out.unit = "windows";
  if (options.limit > 0) {
    out.sequences.resize(std::min(out.sequences.size(), static_cast<size_t>(options.limit)));
  }
  return {};
}

int64_t context_of(const EvalOptions& options, const formats::ModelConfig& config) {
  if (options.mode == "documents" || options.mode == "stories") return 0;
  if (options.context > 0) return options.context;
  return options.mode == "harness" ? config.max_position_embeddings - 1 : kDefaultContext;
}

}  // namespace

Result<EvalText> read_eval_text(const EvalOptions& options, const tokenizer::Tokenizer& tokenizer,
                                const formats::ModelConfig& config) {
  const Result<std::string> read = read_text_file(options.data);
  if (!read.ok()) {
    return Error{ErrorCode::invalid_argument,
                 "--data: " + read.error().message + "; expected a text file (also .gz, .zst)"};
  }
  const std::string& text = read.value();
  EvalText out;
  out.context = context_of(options, config);
  if (out.context >= config.max_position_embeddings) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("--context: found {}, expected less than {} "
                             "(max_position_embeddings)",
                             out.context, config.max_position_embeddings)};
  }
  Result<void> added;
  if (options.mode == "documents" || options.mode == "stories") {
    added = add_documents(text, options, tokenizer, out);
  } else if (options.mode == "harness") {
    added = add_articles(text, options, tokenizer, out);
  } else {
    added = add_windows(text, options, tokenizer, out);
  }
  if (!added.ok()) return added.error().with(options.data);
  if (out.sequences.empty()) {
    return Error{ErrorCode::invalid_argument, options.data + ": no text to score"};
  }
  out.data_sha256 = sha256_hex(std::as_bytes(std::span(text)));
  out.token_sha256 = eval::sequences_digest(out.sequences);
  return out;
}

}  // namespace nibble::cli
