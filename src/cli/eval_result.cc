#include "cli/eval_result.h"

#include "base/file.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace nibble::cli {

std::string quantization_name(const formats::ModelConfig& config) {
  return config.quantization_config ? config.quantization_config->quant_algo : "none";
}

OrderedJson result_head(std::string_view kind, const RunDescription& run,
                        const EvalOptions& options, const EvalText& text) {
  OrderedJson data = {{"file", options.data},
                      {"sha256", text.data_sha256},
                      {"mode", options.mode},
                      {"sequences", text.sequences.size()},
                      {"limit", options.limit}};
  if (text.context > 0) data["context"] = text.context;
  if (options.mode == "stride") {
    data["stride"] = options.stride > 0 ? options.stride : text.context / 2;
  }
  if (text.documents > 0) data["documents"] = text.documents;
  return {{"schema", "eval.v1"},
          {"kind", kind},
          {"engine", {{"name", "nibble"}, {"version", NIBBLE_VERSION}}},
          {"model", run.model},
          {"quantization", run.quantization},
          {"device", run.device},
          {"arithmetic", run.arithmetic},
          {"kv_dtype", run.kv_dtype},
          {"token_sha256", text.token_sha256},
          {"data", data}};
}

Result<void> deliver_result(const OrderedJson& result, const EvalOptions& options) {
  const std::string text = dump_json(result, 2) + "\n";
  if (options.json) fmt::print("{}", text);
  if (options.out.empty()) return {};
  return write_file_atomic(options.out, text);
}

}  // namespace nibble::cli
