// The text of the eval commands: a file becomes token sequences by the mode's rules.
//
// The one place where text and scoring meet; the rules themselves are eval/sequences.h,
// eval/documents.h and eval/wikitext.h.
#pragma once

#include "base/result.h"
#include "cli/options.h"
#include "eval/sequences.h"
#include "formats/hf_config.h"
#include "tokenizer/tokenizer.h"

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::cli {

struct EvalText {
  std::vector<eval::ScoredSequence> sequences;
  std::string unit;  // what a sequence is: "windows", "documents"
  int64_t context = 0;  // tokens of a window; 0 for documents
  int64_t documents = 0;  // modes with documents
  int64_t words = 0;  // mode harness: of the original documents
  int64_t bytes = 0;  // of what is scored whole; 0 when a part of the text is not scored
  std::string data_sha256;
  std::string token_sha256;
};

/// Errors: invalid_argument (no such file, too little text, a bad context), unsupported (the
/// tokenizer lacks a token that the mode needs).
Result<EvalText> read_eval_text(const EvalOptions& options, const tokenizer::Tokenizer& tokenizer,
                                const formats::ModelConfig& config);

}  // namespace nibble::cli
