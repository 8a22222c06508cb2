// What the command line asked for: one plain struct per subcommand, filled by arguments.cc.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace nibble::cli {

/// How to load and run a model; shared by every command that runs one.
struct ModelOptions {
  std::string model;  // a directory
  std::string device = "auto";  // auto, cpu, cuda:N
  std::string arithmetic = "exact";  // exact, f32
  std::string activations = "full";  // full, fp8, nvfp4
  std::string kv_cache_dtype = "auto";  // auto, float32, bf16, fp8
  std::string load_format = "auto";  // auto, dummy: random weights from config.json alone
  std::string memory;  // ceiling on what we allocate ("40GiB"); empty: what is free
  int threads = 0;  // 0: one per physical core
  int64_t max_model_len = 0;  // 0: auto
  int64_t max_num_seqs = 0;  // 0: auto
  int64_t max_num_batched_tokens = 0;  // 0: auto
};

struct ServeOptions {
  ModelOptions model;
  std::string host = "127.0.0.1";
  int port = 8000;
  std::vector<std::string> served_model_names;  // empty: the directory's name
  std::string default_chat_template_kwargs;  // JSON object
  double shutdown_timeout_seconds = 30;
};

struct ChatOptions {
  ModelOptions model;
  std::string prompt;  // one question, then exit; empty: interactive
  std::string system;
  bool thinking = true;
  int max_tokens = 0;
  double temperature = -1;  // < 0: the model's generation_config
  uint64_t seed = 0;
};

struct InspectOptions {
  std::string model;
  std::string tensor;
  bool json = false;
};

/// --report without a file.
inline constexpr const char* kDefaultReportText = "auto";

struct QuantizeOptions {
  std::string source;
  std::string destination;
  std::string recipe = "nvfp4-mlp";
  std::string calib;  // text file
  std::string calib_tokens;  // token ids
  std::string amax;  // calibrated maxima instead of a calibration run
  std::string compat;  // modelopt-{0.44,0.47}-{cuda,cpu}
  std::string scales = "auto";  // auto, max, mse, four-over-six, hessian, gptq
  std::string rules;  // file of format rules
  std::string report;  // text to measure the result on; kDefaultReportText; empty: do not
  std::string verify;  // a quantized directory to check instead of making one
  std::string against;  // its BF16 source
  std::string arithmetic = "f32";
  int calib_samples = 128;
  int calib_length = 512;
  bool force_all_experts = false;
  std::string stats;  // statistics are saved here, or taken from here
  int threads = 0;
  bool overwrite = false;
};

/// Which tokens of a text are scored, and where the result goes; shared by the eval commands.
struct EvalOptions {
  std::string data;
  std::string mode = "llama";  // llama, stride, harness, documents
  int64_t context = 0;  // tokens of a window; 0: 512, or the model's length for harness
  int64_t stride = 0;  // mode stride; 0: half the context
  int64_t limit = 0;  // documents or windows at most; 0: all
  bool json = false;  // the result file on standard output instead of text
  std::string out;  // write the result file here
};

struct PerplexityOptions {
  ModelOptions model;
  EvalOptions eval;
  int64_t batch = 1;  // sequences side by side
  bool by_position = false;
};

struct KldOptions {
  ModelOptions model;  // kv_cache_dtype auto: bf16, not what the checkpoint says
  EvalOptions eval;
  std::string base;  // a model directory or a base file
  std::string base_kv_cache_dtype = "auto";
  bool pair = false;  // insist on two models, nothing stored
  std::string save_base;  // write a base file
  std::string format = "full";  // of save_base: full, exact, topk, llama
  int64_t base_topk = 1024;
  bool layers = true;  // hidden states and chosen experts, layer by layer
  // Rows of the noise floor's runs; 0: none. Few positions make most of it, so it takes many.
  int64_t noise_tokens = 65536;
  bool noise_at_other_level = true;  // on the CPU; costs a second copy of the head
  std::string hidden_memory = "1GiB";
  std::string html;
};

struct BenchEngineOptions {
  ModelOptions model;
  std::vector<int64_t> prompt_tokens = {512};
  std::vector<int64_t> generated_tokens = {64};
  std::vector<int64_t> depths = {0};
  std::vector<int64_t> sequences = {1};
  int repetitions = 5;
  bool json = false;
};

struct SelftestOptions {
  std::string device = "auto";
  std::vector<std::string> only;  // groups of operations; empty: all
  int threads = 0;
  bool json = false;
};

struct VersionOptions {};

using Command =
    std::variant<VersionOptions, ServeOptions, ChatOptions, InspectOptions, QuantizeOptions,
                 PerplexityOptions, KldOptions, BenchEngineOptions, SelftestOptions>;

}  // namespace nibble::cli
