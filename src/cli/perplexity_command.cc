// nibble eval ppl: perplexity of a text file, in mode documents or llama (spec eval.md 2).
#include "base/file.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/model_session.h"
#include "cli/progress.h"
#include "eval/documents.h"
#include "eval/perplexity.h"
#include "tokenizer/tokenizer.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>

namespace nibble::cli {
namespace {

// Documents mode: this many tokens of a document and the end-of-text token.
constexpr size_t kDocumentTokens = 2047;

// A sequence to score, from its first scored token on.
struct ScoredSequence {
  std::vector<int32_t> tokens;
  int64_t first_scored = 1;
};

Result<std::vector<ScoredSequence>> document_sequences(const tokenizer::Tokenizer& tokenizer,
                                                       const std::string& text) {
  const std::optional<int32_t> end = tokenizer.token_id("<|endoftext|>");
  if (!end) return Error{ErrorCode::unsupported, "the tokenizer has no token <|endoftext|>"};
  std::vector<ScoredSequence> out;
  for (const std::string& document : eval::split_documents(text)) {
    std::vector<int32_t> ids = tokenizer.encode(document, tokenizer::AddedTokens::parse);
    ids.resize(std::min(ids.size(), kDocumentTokens));
    ids.push_back(*end);
    out.push_back({std::move(ids), 1});
  }
  return out;
}

Result<std::vector<ScoredSequence>> window_sequences(const tokenizer::Tokenizer& tokenizer,
                                                     const std::string& text, int64_t context) {
  const std::vector<int32_t> ids = tokenizer.encode(text, tokenizer::AddedTokens::parse);
  const auto count = static_cast<int64_t>(ids.size());
  if (context < 4) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("--context: found {}, expected at least 4", context)};
  }
  if (count < 2 * context) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("--data: {} tokens, expected at least {} (two windows of {})", count,
                             2 * context, context)};
  }
  std::vector<ScoredSequence> out;
  for (int64_t window = 0; window < count / context; ++window) {
    const auto first = ids.begin() + window * context;
    out.push_back({{first, first + context}, context / 2 + 1});
  }
  return out;
}

Result<std::vector<ScoredSequence>> make_sequences(const PerplexityOptions& options) {
  const Result<std::string> read = read_file(options.data);
  if (!read.ok()) return Error{ErrorCode::invalid_argument, "--data: " + read.error().message};
  const std::string& text = read.value();
  NIBBLE_ASSIGN_OR_RETURN(const auto tokenizer, tokenizer::Tokenizer::load(options.model.model));
  auto sequences = options.mode == "llama" ? window_sequences(tokenizer, text, options.context)
                                           : document_sequences(tokenizer, text);
  if (!sequences.ok()) return sequences.error();
  std::vector<ScoredSequence> out = std::move(sequences).value();
  if (out.empty()) return Error{ErrorCode::invalid_argument, options.data + ": no text to score"};
  if (options.limit > 0) out.resize(std::min(out.size(), static_cast<size_t>(options.limit)));
  return out;
}

void print_result(const PerplexityOptions& options, const eval::NllSum& total, size_t sequences,
                  DType kv_dtype) {
  const char* unit = options.mode == "llama" ? "windows" : "documents";
  if (options.json) {
    const OrderedJson out = {{"mode", options.mode},
                             {unit, sequences},
                             {"tokens", total.tokens},
                             {"nll_per_token", total.mean()},
                             {"perplexity", total.perplexity()},
                             {"perplexity_error", total.perplexity_error()},
                             {"arithmetic", options.model.arithmetic},
                             {"kv_dtype", dtype_name(kv_dtype)}};
    fmt::print("{}\n", dump_json(out, 2));
    return;
  }
  fmt::print(
      "perplexity {:.4f} +/- {:.4f}: {} tokens scored in {} {}, {:.5f} nats per token ({}, KV "
      "{})\n",
      total.perplexity(), total.perplexity_error(), total.tokens, sequences, unit, total.mean(),
      options.model.arithmetic, dtype_name(kv_dtype));
}

Result<void> score_all(const PerplexityOptions& options) {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<ScoredSequence> sequences, make_sequences(options));
  size_t longest = 0;
  for (const ScoredSequence& sequence : sequences)
    longest = std::max(longest, sequence.tokens.size());
  SessionNeeds needs;
  needs.max_num_seqs = 1;
  needs.max_num_batched_tokens = 256;
  needs.max_model_len = static_cast<int32_t>(longest);
  needs.logits_of_all_rows = true;
  NIBBLE_ASSIGN_OR_RETURN(const auto session, ModelSession::open(options.model, needs));
  if (session->limits().max_model_len < static_cast<int32_t>(longest)) {
    return Error{ErrorCode::exhausted,
                 fmt::format("a sequence has {} tokens, but only {} fit into memory", longest,
                             session->limits().max_model_len)};
  }
  eval::SequenceScorer scorer(session->executor(), session->device(), session->capacity(),
                              session->config().vocab_size);
  eval::NllSum total;
  Progress progress("scoring");
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (interrupt_signal() != 0) return Error{ErrorCode::cancelled, "interrupted"};
    NIBBLE_RETURN_IF_ERROR(scorer.score(sequences[i].tokens, sequences[i].first_scored, total));
    if (total.tokens > 0) {
      progress.update(static_cast<int64_t>(i) + 1, static_cast<int64_t>(sequences.size()),
                      fmt::format("perplexity {:.4f}", total.perplexity()));
    }
  }
  progress.finish();
  if (total.tokens == 0)
    return Error{ErrorCode::invalid_argument, options.data + ": no token to score"};
  print_result(options, total, sequences.size(), session->kv_dtype());
  return {};
}

}  // namespace

int run_perplexity(const PerplexityOptions& options) {
  const Result<void> done = score_all(options);
  return done.ok() ? kExitOk : report_error(done.error());
}

}  // namespace nibble::cli
