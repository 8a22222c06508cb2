// nibble eval ppl: perplexity of a text file (spec eval.md 2).
//
// Running values go to standard output as they come; with --json the result file is all that does.
#include "cli/commands.h"
#include "cli/eval_result.h"
#include "cli/eval_text.h"
#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/model_session.h"
#include "cli/progress.h"
#include "eval/perplexity.h"
#include "eval/statistics.h"
#include "tokenizer/tokenizer.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>
#include <numbers>

namespace nibble::cli {
namespace {

constexpr int32_t kRowsPerSequence = 256;  // of one step

class PerplexityRun {
 public:
  explicit PerplexityRun(const PerplexityOptions& options)
      : options_(options), eval_(options.eval) {}

  Result<void> run() {
    NIBBLE_ASSIGN_OR_RETURN(const auto tokenizer, tokenizer::Tokenizer::load(options_.model.model));
    NIBBLE_ASSIGN_OR_RETURN(const formats::ModelConfig config,
                            formats::load_model_config(options_.model.model));
    NIBBLE_ASSIGN_OR_RETURN(text_, read_eval_text(eval_, tokenizer, config));
    NIBBLE_RETURN_IF_ERROR(open());
    NIBBLE_RETURN_IF_ERROR(score());
    if (!eval_.json) print_totals();
    return deliver_result(result(), eval_);
  }

 private:
  Result<void> open() {
    const int32_t longest = eval::longest_sequence(text_.sequences);
    const auto batch = static_cast<int32_t>(std::max<int64_t>(
        1, std::min<int64_t>(options_.batch, static_cast<int64_t>(text_.sequences.size()))));
    SessionNeeds needs;
    needs.max_num_seqs = batch;
    needs.max_num_batched_tokens = kRowsPerSequence * batch;
    needs.max_model_len = longest;
    needs.logits_of_all_rows = true;
    NIBBLE_ASSIGN_OR_RETURN(session_, ModelSession::open(options_.model, needs));
    const runtime::StepCapacity& capacity = session_->capacity();
    if (session_->limits().max_model_len < longest || capacity.sequences < batch ||
        session_->limits().num_pages < eval::StepWriter::pages_needed(capacity)) {
      return Error{ErrorCode::exhausted,
                   fmt::format("{} sequences of {} tokens side by side do not fit into memory; "
                               "lower --batch or --context",
                               batch, longest)};
    }
    return {};
  }

  Result<void> score() {
    eval::SequenceScorer scorer(session_->executor(), session_->device(), session_->capacity(),
                                session_->config().vocab_size);
    Progress progress("scoring");
    const auto sequences = static_cast<int64_t>(text_.sequences.size());
    const auto done = [&](size_t index, const eval::SequenceScores& scores) {
      add(index, scores);
      if (!eval_.json) {
        fmt::print("[{}]{:.4f},", index + 1, eval::exp_of_mean(total_).value);
        std::fflush(stdout);
      }
      progress.update(static_cast<int64_t>(index) + 1, sequences);
      return interrupt_signal() == 0;
    };
    const Result<void> scored = scorer.score(text_.sequences, done);
    progress.finish();
    if (!eval_.json) fmt::print("\n");
    return scored;
  }

  void add(size_t index, const eval::SequenceScores& scores) {
    eval::MeanSum own;
    for (size_t i = 0; i < scores.nll.size(); ++i) {
      own.add(scores.nll[i]);
      total_.add(scores.nll[i]);
      by_position_.add(scores.first_scored + static_cast<int32_t>(i), scores.nll[i]);
    }
    items_.push_back({{"sequence", index + 1},
                      {"tokens", own.count()},
                      {"nll", own.sum()},
                      {"running_perplexity", eval::exp_of_mean(total_).value}});
  }

  void print_totals() const {
    const eval::Estimate perplexity = eval::exp_of_mean(total_);
    if (eval_.mode == "llama") {
      fmt::print("Final estimate: PPL over {} chunks for n_ctx={} = {:.4f} +/- {:.5f}\n",
                 text_.sequences.size(), text_.context, perplexity.value, perplexity.error);
    }
    fmt::print(
        "perplexity {:.4f} +/- {:.4f}: {} tokens scored in {} {}, {:.5f} nats per token ({}, KV "
        "{})\n",
        perplexity.value, perplexity.error, total_.count(), text_.sequences.size(), text_.unit,
        total_.mean(), options_.model.arithmetic, dtype_name(session_->kv_dtype()));
    if (text_.words > 0) {
      fmt::print("word perplexity {:.4f} ({} words of {} documents)\n", per(text_.words),
                 text_.words, text_.documents);
    }
    if (text_.bytes > 0) {
      fmt::print("byte perplexity {:.5f}, bits a byte {:.5f} ({} bytes)\n", per(text_.bytes),
                 bits_per_byte(), text_.bytes);
    }
    if (!options_.by_position) return;
    fmt::print("{:>15} {:>10} {:>10} {:>12}\n", "position", "tokens", "mean nll", "perplexity");
    for (const auto& bucket : by_position_.buckets()) {
      if (bucket.sum.count() == 0) continue;
      fmt::print("{:>15} {:>10} {:>10.5f} {:>12.4f}\n",
                 fmt::format("{}-{}", bucket.first, bucket.last), bucket.sum.count(),
                 bucket.sum.mean(), eval::exp_of_mean(bucket.sum).value);
    }
  }

  // exp of the whole nll spread over `pieces`.
  double per(int64_t pieces) const { return std::exp(total_.sum() / static_cast<double>(pieces)); }
  double bits_per_byte() const {
    return total_.sum() / (static_cast<double>(text_.bytes) * std::numbers::ln2);
  }

  OrderedJson result() const {
    const RunDescription run = {options_.model.model, quantization_name(session_->config()),
                                session_->device().description(), options_.model.arithmetic,
                                dtype_name(session_->kv_dtype())};
    OrderedJson out = result_head("ppl", run, eval_, text_);
    out["flags"] = {{"batch", options_.batch}};
    const eval::Estimate perplexity = eval::exp_of_mean(total_);
    OrderedJson totals = {{"tokens", total_.count()},
                          {"nll", total_.sum()},
                          {"nll_per_token", total_.mean()},
                          {"perplexity", perplexity.value},
                          {"perplexity_error", perplexity.error}};
    if (text_.words > 0) {
      totals["words"] = text_.words;
      totals["word_perplexity"] = per(text_.words);
    }
    if (text_.bytes > 0) {
      totals["bytes"] = text_.bytes;
      totals["byte_perplexity"] = per(text_.bytes);
      totals["bits_per_byte"] = bits_per_byte();
    }
    out["totals"] = totals;
    out["by_position"] = OrderedJson::array();
    for (const auto& bucket : by_position_.buckets()) {
      out["by_position"].push_back({{"first", bucket.first},
                                    {"last", bucket.last},
                                    {"tokens", bucket.sum.count()},
                                    {"nll_per_token", bucket.sum.mean()}});
    }
    out["items"] = items_;
    return out;
  }

  const PerplexityOptions& options_;
  const EvalOptions& eval_;
  EvalText text_;
  std::unique_ptr<ModelSession> session_;
  eval::MeanSum total_;
  eval::PositionBuckets by_position_;
  OrderedJson items_ = OrderedJson::array();
};

}  // namespace

int run_perplexity(const PerplexityOptions& options) {
  const Result<void> done = PerplexityRun(options).run();
  return done.ok() ? kExitOk : report_error(done.error());
}

}  // namespace nibble::cli
