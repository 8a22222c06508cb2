// KldComparison: a model against its base model or a base file, as the options say: opened, run and
// put into words.
//
// Behind `eval kld` and `quantize --report`. Nothing of the models' text side reaches eval/:
// tokens, their kinds and the words around a position are looked up here.
#pragma once

#include "cli/eval_result.h"
#include "cli/eval_text.h"
#include "cli/model_session.h"
#include "cli/opened_checkpoint.h"
#include "cli/options.h"
#include "eval/kld/kld_result.h"
#include "eval/kld/kld_run.h"
#include "tokenizer/tokenizer.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace nibble::cli {

class KldComparison {
 public:
  /// `options` must outlive it.
  explicit KldComparison(const KldOptions& options) : options_(options), eval_(options.eval) {}

  /// Opens everything and runs it, with a progress bar. Errors: invalid_argument (nothing to
  /// compare with, two texts, two models that do not compare), cancelled, and those of files.
  Result<void> run();

  /// True if there is a result; else a base file was written and that was all.
  bool has_result() const { return !outcome_.records.empty(); }
  /// Needs has_result().
  eval::KldResult result() const;

  const EvalText& text() const { return text_; }
  RunDescription description() const;
  int64_t base_file_bytes() const { return base_bytes_; }

 private:
  bool compares() const { return !options_.base.empty(); }
  /// The folder of the base model, or "" when the base is a file.
  std::string base_folder() const {
    if (!compares()) return options_.model.model;
    return base_file_ ? "" : options_.base;
  }
  Result<void> open_models();
  Result<void> open_text();
  Result<void> check_base_tokens() const;
  Result<void> take_file_tokens();
  DType model_kv() const;
  DType base_kv() const;
  Result<void> compute();
  void add_probes(const eval::KldModel& base, std::vector<eval::NoiseProbe>& probes);
  Result<eval::BaseFileInfo> base_info() const;
  std::string file_run() const;
  void add_file_remarks(std::vector<std::string>& remarks) const;
  const std::vector<int32_t>& tokens_of(const eval::PositionRecord& record) const;
  std::vector<eval::TokenKind> token_kinds() const;
  eval::WorstPosition worst_position(const eval::PositionRecord& record) const;

  const KldOptions& options_;
  const EvalOptions& eval_;
  std::unique_ptr<eval::BaseFileReader> base_file_;
  std::unique_ptr<OpenedCheckpoint> model_, base_;
  ComputeDevice compute_;
  std::unique_ptr<device::Device> probe_device_;
  std::optional<tokenizer::Tokenizer> tokenizer_;
  EvalText text_;
  eval::KldOutcome outcome_;
  int64_t base_bytes_ = 0;
};

}  // namespace nibble::cli
