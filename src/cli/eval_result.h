// The result file of the eval commands (schema "eval.v1"): its common head, and where it goes.
#pragma once

#include "base/json.h"
#include "base/result.h"
#include "cli/eval_text.h"
#include "cli/options.h"

#include <string>
#include <string_view>

namespace nibble::cli {

/// How the model was run, for the head of a result.
struct RunDescription {
  std::string model;  // as given
  std::string quantization;  // quant_algo of the checkpoint, or "none"
  std::string device;
  std::string arithmetic;
  std::string kv_dtype;
};

std::string quantization_name(const formats::ModelConfig& config);

/// schema, kind, engine, model and run, text with its digests. `text.sequences` may be empty when
/// the tokens come from elsewhere.
OrderedJson result_head(std::string_view kind, const RunDescription& run,
                        const EvalOptions& options, const EvalText& text);

/// Prints it (--json) and writes it (--out).
Result<void> deliver_result(const OrderedJson& result, const EvalOptions& options);

}  // namespace nibble::cli
