#include "cli/arguments.h"

#include "base/sizes.h"
#include "quantize/recipe.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cctype>
#include <map>

namespace nibble::cli {
namespace {

constexpr const char* kDescription =
    "nibble makes, serves and measures NVFP4 models of the Qwen3.5-MoE family.";

// NIBBLE_MAX_MODEL_LEN for --max-model-len.
std::string environment_name(const std::string& flag) {
  std::string name = "NIBBLE_";
  for (const char c : flag.substr(flag.find_first_not_of('-'))) {
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return name;
}

// --max_model_len=5 -> --max-model-len=5; values and short flags stay.
std::string normalized_flag(std::string argument) {
  if (!argument.starts_with("--")) return argument;
  const size_t end = std::min(argument.find('='), argument.size());
  std::replace(argument.begin(), argument.begin() + static_cast<std::ptrdiff_t>(end), '_', '-');
  return argument;
}

// "32k" -> 32768 before CLI11 reads the integer.
CLI::Validator count_transform() {
  return CLI::Validator(
      [](std::string& text) {
        const auto count = parse_count(text);
        if (!count.ok()) return count.error().message;
        text = std::to_string(count.value());
        return std::string();
      },
      "COUNT");
}

CLI::Validator size_check() {
  return CLI::Validator(
      [](std::string& text) {
        const auto bytes = parse_bytes(text);
        return bytes.ok() ? std::string() : bytes.error().message;
      },
      "SIZE");
}

// Adds options whose value is also read from the environment.
class Flags {
 public:
  explicit Flags(CLI::App& app) : app_(app) {}

  template <typename T>
  CLI::Option* option(const std::string& names, T& value, const std::string& help) {
    CLI::Option* added = app_.add_option(names, value, help)->capture_default_str();
    const size_t position = names.find("--");
    if (position != std::string::npos) {
      added->envname(
          environment_name(names.substr(position, names.find(',', position) - position)));
    }
    return added;
  }
  CLI::Option* count(const std::string& names, int64_t& value, const std::string& help) {
    return option(names, value, help)->transform(count_transform())->check(CLI::NonNegativeNumber);
  }
  CLI::Option* choice(const std::string& names, std::string& value,
                      const std::vector<std::string>& choices, const std::string& help) {
    return option(names, value, help)->check(CLI::IsMember(choices));
  }
  void flag(const std::string& names, bool& value, const std::string& help) {
    app_.add_flag(names, value, help)->envname(environment_name(names));
  }

 private:
  CLI::App& app_;
};

void add_threads_option(Flags& flags, int& threads) {
  flags.option("-t,--cpu-threads,--threads", threads, "Kernel threads; 0: one per physical core")
      ->check(CLI::Range(0, 1024));
}

// Where and how a model runs.
void add_run_options(CLI::App& app, ModelOptions& options) {
  Flags flags(app);
  app.add_option("model", options.model, "Model directory")->required();
  flags.option("--device", options.device, "Where to run: auto, cpu, cuda:N");
  flags.choice("--arithmetic", options.arithmetic, {"exact", "f32"},
               "exact: BF16 inputs, as served");
  flags.choice("--activations", options.activations, {"full", "fp8", "nvfp4"},
               "Inputs of prefill products on a GPU: full: as --arithmetic says; fp8 (compute "
               "capability 9.0), nvfp4 (12.x; emulated elsewhere): rounded, faster, less exact");
  flags.choice("--kv-cache-dtype", options.kv_cache_dtype, {"auto", "float32", "bf16", "fp8"},
               "Type of the KV cache; auto follows the checkpoint");
  flags.choice("--load-format", options.load_format, {"auto", "dummy"},
               "dummy: random weights from config.json alone, for measuring speed");
  add_threads_option(flags, options.threads);
}

void add_memory_option(CLI::App& app, ModelOptions& options) {
  Flags(app)
      .option("--memory", options.memory, "Hard ceiling on allocated memory, for example 40GiB")
      ->check(size_check());
}

void add_model_options(CLI::App& app, ModelOptions& options) {
  add_run_options(app, options);
  add_memory_option(app, options);
  Flags flags(app);
  flags.count("-c,--max-model-len", options.max_model_len,
              "Prompt plus completion, for example 32k; 0: auto");
  flags.count("--max-num-seqs", options.max_num_seqs,
              "Sequences that run at the same time; 0: auto");
  flags.count("--max-num-batched-tokens", options.max_num_batched_tokens,
              "Tokens of one step; 0: auto");
}

void add_serve(CLI::App& root, ServeOptions& options) {
  CLI::App& app = *root.add_subcommand("serve", "OpenAI-compatible server");
  add_model_options(app, options.model);
  Flags flags(app);
  flags.option("--host", options.host, "Address to listen on");
  flags.option("--port", options.port, "Port; 0: any free one")->check(CLI::Range(0, 65535));
  flags.option("-a,--served-model-name", options.served_model_names,
               "Names clients may use; the first is shown");
  flags.option("--default-chat-template-kwargs", options.default_chat_template_kwargs,
               "JSON object of template variables, for example {\"enable_thinking\": false}");
  flags
      .option("--shutdown-timeout", options.shutdown_timeout_seconds,
              "Seconds that running requests get after Ctrl-C")
      ->check(CLI::NonNegativeNumber);
}

void add_chat(CLI::App& root, ChatOptions& options) {
  CLI::App& app = *root.add_subcommand("chat", "Talk to a model in the terminal");
  add_model_options(app, options.model);
  Flags flags(app);
  flags.option("-p,--prompt", options.prompt, "Ask this, print the answer, exit");
  flags.option("--system", options.system, "System message");
  app.add_flag("--thinking,!--no-thinking", options.thinking,
               "Let the model think first (default)");
  flags
      .option("--max-tokens", options.max_tokens,
              "Tokens of one answer; 0: up to the context limit")
      ->check(CLI::NonNegativeNumber);
  flags.option("--temperature", options.temperature, "0: greedy; below 0: the model's own default");
  flags.option("--seed", options.seed, "Seed of the sampler; 0: from the clock");
}

void add_inspect(CLI::App& root, InspectOptions& options) {
  CLI::App& app = *root.add_subcommand("inspect", "Tensors, types and sizes of a checkpoint");
  app.add_option("model", options.model, "Model directory or .safetensors file")->required();
  app.add_option("--tensor", options.tensor, "Statistics of one tensor");
  app.add_flag("--json", options.json, "Machine-readable output");
}

void add_quantize(CLI::App& root, QuantizeOptions& options) {
  CLI::App& app =
      *root.add_subcommand("quantize", "BF16 checkpoint -> NVFP4 checkpoint (ModelOpt layout)");
  Flags flags(app);
  CLI::Option* source = app.add_option("source", options.source, "BF16 model directory");
  app.add_option("destination", options.destination, "Directory to write")->needs(source);
  CLI::Option* verify = app.add_option("--verify", options.verify,
                                       "Check this quantized directory instead of making one");
  CLI::Option* against = app.add_option("--against", options.against, "Its BF16 source");
  verify->needs(against)->excludes(source);
  against->needs(verify);
  app.callback([&options] {
    if (options.verify.empty() && options.destination.empty()) {
      throw CLI::RequiredError("source and destination (or --verify and --against)");
    }
  });
  flags.choice("--recipe", options.recipe, quantize::Recipe::names(), "What becomes what");
  flags.option("--calib", options.calib,
               "Calibration text: .jsonl with text, article or messages; or .txt (also .gz, .zst)");
  flags.option("--calib-samples", options.calib_samples, "Samples used")
      ->check(CLI::PositiveNumber);
  flags.option("--calib-length", options.calib_length, "Tokens of one sample at most")
      ->check(CLI::PositiveNumber);
  flags.option("--calib-tokens", options.calib_tokens,
               "Calibration token ids (JSON), instead of text");
  flags.option("--stats", options.stats,
               "Take the calibration's statistics from this file, or save them there if there is "
               "none");
  app.add_flag("--force-all-experts", options.force_all_experts,
               "Take the experts' input maxima as if every token went to every expert (slow)");
  flags.option("--amax", options.amax, "Calibrated maxima (.tsv), instead of a calibration run");
  flags.choice(
      "--compat", options.compat,
      {"modelopt-0.44-cuda", "modelopt-0.44-cpu", "modelopt-0.47-cuda", "modelopt-0.47-cpu"},
      "Write exactly what this ModelOpt writes, bytes and configuration");
  flags.choice(
      "--scales", options.scales, {"auto", "max", "mse", "four-over-six", "hessian", "gptq"},
      "How NVFP4 scales and codes are chosen; auto: as ModelOpt does with --compat, else gptq "
      "(with --stats hessian, with --amax mse)");
  flags.option("--rules", options.rules,
               "Formats by module name: lines \"PATTERN bf16|fp8|nvfp4|nvfp4-weight-only\"");
  app.add_option(
         "--report", options.report,
         "Measure perplexity and KL divergence against SOURCE on this text and put them into "
         "the report and the model card; without FILE: SOURCE/eval/heldout.txt or "
         "heldout_generated.txt")
      ->type_name("[FILE]")
      ->expected(0, 1)
      ->default_str(kDefaultReportText)
      ->excludes(verify);
  flags.choice("--arithmetic", options.arithmetic, {"f32", "exact"},
               "Arithmetic of the calibration run");
  add_threads_option(flags, options.threads);
  app.add_flag("--overwrite", options.overwrite, "Replace DESTINATION if it exists");
}

void add_text_options(CLI::App& app, EvalOptions& options) {
  Flags flags(app);
  app.add_option("--data,--text", options.data, "Text file");
  flags.choice("--mode", options.mode, {"llama", "stride", "harness", "documents", "stories"},
               "llama: windows, second halves scored; stride: sliding windows; harness: WikiText "
               "articles as lm-evaluation-harness scores them; documents (or stories): each from "
               "an empty state, parted by lines <|endoftext|>");
  flags.count("-c,--context", options.context,
              "Tokens of a window; 0: 512, or the model's length in mode harness");
  flags.count("--stride", options.stride, "Mode stride: tokens scored a window; 0: half of it");
  flags.count("--limit,--chunks", options.limit, "Documents or windows at most; 0: all");
  app.add_flag("--json", options.json, "Print the result file instead of text");
  app.add_option("--out", options.out, "Write the result file (JSON) here");
}

void add_perplexity(CLI::App& eval, PerplexityOptions& options) {
  CLI::App& app = *eval.add_subcommand("ppl", "Perplexity of a text");
  add_run_options(app, options.model);
  add_memory_option(app, options.model);
  add_text_options(app, options.eval);
  app.get_option("--data")->required();
  Flags flags(app);
  flags.count("--batch", options.batch, "Sequences side by side; changes no bit on the CPU");
  app.add_flag("--by-position", options.by_position, "Mean nll by position in the sequence");
}

void add_kld(CLI::App& eval, KldOptions& options) {
  CLI::App& app = *eval.add_subcommand("kld", "KL divergence of a model against its base");
  add_run_options(app, options.model);
  app.remove_option(app.get_option("--load-format"));  // random weights have no base
  app.get_option("--kv-cache-dtype")->description("Type of the model's KV cache; auto: bf16");
  add_text_options(app, options.eval);
  Flags flags(app);
  app.add_option("--base", options.base,
                 "Model directory (run beside the model, layer by layer) or base file");
  flags.choice("--base-kv-cache-dtype", options.base_kv_cache_dtype,
               {"auto", "float32", "bf16", "fp8"}, "Type of the base's KV cache; auto: bf16");
  app.add_flag("--pair", options.pair, "Insist on two models with nothing stored between them");
  CLI::Option* save = app.add_option(
      "--save-base", options.save_base,
      "Keep the base's log-probabilities in this file (without --base: the model's)");
  flags
      .choice("--format", options.format, {"full", "exact", "topk", "llama"},
              "Of --save-base: 16-bit codes, plain logits, the best entries, llama.cpp's layout")
      ->needs(save);
  flags.option("--base-topk", options.base_topk, "Entries kept a position by --format topk")
      ->needs(save)
      ->check(CLI::Range(int64_t{5}, int64_t{1} << 24));
  app.add_flag("--layers,--routing,!--no-layers", options.layers,
               "Compare hidden states and chosen experts after every layer (default)");
  flags.count(
      "--noise-tokens", options.noise_tokens,
      "First tokens of the text on which the base is run again in two other ways, for the noise "
      "floor; 0: none");
  flags
      .option("--hidden-memory", options.hidden_memory,
              "Hidden rows kept at a time; a longer text goes through the layers in groups")
      ->check(size_check());
  app.add_option("--html", options.html, "Write the report as one HTML page");
}

CLI::App& add_eval(CLI::App& root) {
  CLI::App& eval = *root.add_subcommand("eval", "Measure a model's quality");
  eval.require_subcommand(1);
  return eval;
}

void add_bench(CLI::App& root, BenchEngineOptions& options) {
  CLI::App& bench = *root.add_subcommand("bench", "Measure speed");
  bench.require_subcommand(1);
  CLI::App& app = *bench.add_subcommand("engine", "Prefill and decode in this process");
  add_model_options(app, options.model);
  Flags flags(app);
  const auto list = [&](const char* names, std::vector<int64_t>& values, const char* help) {
    app.add_option(names, values, help)->delimiter(',')->capture_default_str();
  };
  list("-p,--n-prompt", options.prompt_tokens, "Prompt lengths to time; 0: none");
  list("-n,--n-gen", options.generated_tokens, "Tokens to decode; 0: none");
  list("-d,--n-depth", options.depths, "Context tokens before each test");
  list("-s,--sequences", options.sequences, "Sequences side by side");
  flags.option("-r,--repetitions", options.repetitions, "Timed repetitions")
      ->check(CLI::PositiveNumber);
  app.add_flag("--json", options.json, "Machine-readable output");
}

void add_selftest(CLI::App& root, SelftestOptions& options) {
  CLI::App& app = *root.add_subcommand("selftest", "Kernels against the double reference");
  Flags flags(app);
  flags.option("--device", options.device,
               "auto, cpu (every instruction set level of this machine) or cuda:N");
  app.add_option("--only", options.only, "Operations to check, as the table names them")
      ->delimiter(',');
  flags
      .option("-t,--cpu-threads,--threads", options.threads,
              "Threads of the reference and of the CPU; 0: one per physical core")
      ->check(CLI::Range(0, 1024));
  app.add_flag("--json", options.json, "Machine-readable output: every check");
}

// Every long name of the innermost subcommand that was called.
std::vector<std::string> known_flags(const CLI::App& app) {
  for (const CLI::App* sub : app.get_subcommands()) return known_flags(*sub);
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

ParseExit usage_error(const CLI::App& app, const CLI::ParseError& error,
                      const std::vector<std::string>& arguments) {
  std::string text = "nibble: " + std::string(error.what()) + "\n";
  const std::vector<std::string> known = known_flags(app);
  for (const std::string& argument : arguments) {
    const std::string flag = argument.substr(0, argument.find('='));
    if (!flag.starts_with("--") || std::find(known.begin(), known.end(), flag) != known.end())
      continue;
    const std::string nearest = nearest_name(flag, known);
    if (!nearest.empty()) text += "Did you mean " + nearest + " instead of " + flag + "?\n";
  }
  return {2, text + "Run 'nibble --help' or 'nibble COMMAND --help'.\n"};
}

}  // namespace

std::string nearest_name(const std::string& name, const std::vector<std::string>& known) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : known) {
    std::vector<size_t> row(candidate.size() + 1);
    for (size_t j = 0; j < row.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= name.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j < row.size(); ++j) {
        const size_t replaced = diagonal + (name[i - 1] == candidate[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

std::variant<Command, ParseExit> parse_arguments(std::vector<std::string> arguments) {
  CLI::App root(kDescription, "nibble");
  root.require_subcommand(1);
  root.set_version_flag("--version", NIBBLE_VERSION);
  ServeOptions serve;
  ChatOptions chat;
  InspectOptions inspect;
  QuantizeOptions quantize;
  PerplexityOptions perplexity;
  KldOptions kld;
  BenchEngineOptions bench;
  SelftestOptions selftest;
  add_quantize(root, quantize);
  add_serve(root, serve);
  add_chat(root, chat);
  add_inspect(root, inspect);
  add_bench(root, bench);
  add_selftest(root, selftest);
  CLI::App& eval = add_eval(root);
  add_perplexity(eval, perplexity);
  add_kld(eval, kld);
  root.add_subcommand("version", "Print the version");

  std::transform(arguments.begin(), arguments.end(), arguments.begin(), normalized_flag);
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // the order CLI11 takes
  try {
    root.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    const CLI::App* app = &root;
    while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
    return ParseExit{0, app->help()};
  } catch (const CLI::CallForVersion&) {
    return ParseExit{0, std::string(NIBBLE_VERSION) + "\n"};
  } catch (const CLI::ParseError& error) {
    return usage_error(root, error, arguments);
  }
  if (root.got_subcommand(&eval) && eval.got_subcommand("kld")) return kld;
  const std::map<std::string, Command> commands = {
      {"selftest", selftest}, {"serve", serve},
      {"chat", chat},         {"inspect", inspect},
      {"quantize", quantize}, {"bench", bench},
      {"eval", perplexity},   {"version", VersionOptions{}}};
  return commands.at(root.get_subcommands().front()->get_name());
}

}  // namespace nibble::cli
