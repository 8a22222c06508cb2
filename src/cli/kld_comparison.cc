#include "cli/kld_comparison.h"

#include "base/file.h"
#include "base/sizes.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "device/cpu/cpu_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <utility>

namespace nibble::cli {
namespace {

using eval::BaseEncoding;
using eval::BaseFormat;
using eval::KldModel;
using eval::PositionRecord;

constexpr int32_t kTokensBefore = 24, kTokensAfter = 8;  // around a bad position

// auto is BF16 (f32 at f32), not the checkpoint's wish: FP8 KV is a figure of its own.
DType kv_dtype_of(const std::string& wish, const std::string& arithmetic) {
  if (wish == "fp8") return DType::f8_e4m3;
  if (wish == "float32" || (wish == "auto" && arithmetic == "f32")) return DType::f32;
  return DType::bf16;
}

// The level below the one in use (above it on the lowest), for the noise floor.
std::optional<IsaLevel> other_isa_level(IsaLevel level) {
  switch (level) {
    case IsaLevel::avx512_dot:
    case IsaLevel::avx512:
      return IsaLevel::avx2;
    case IsaLevel::avx2:
      return IsaLevel::scalar;
    case IsaLevel::scalar:
      break;
  }
  return detect_isa_level() == IsaLevel::scalar ? std::nullopt : std::optional(IsaLevel::avx2);
}

}  // namespace

Result<void> KldComparison::run() {
  NIBBLE_RETURN_IF_ERROR(open_models());
  NIBBLE_RETURN_IF_ERROR(open_text());
  return compute();
}

RunDescription KldComparison::description() const {
  return {options_.model.model, quantization_name(model_->config()), compute_.device->description(),
          options_.model.arithmetic, dtype_name(model_kv())};
}

Result<void> KldComparison::open_models() {
  if (!compares() && options_.save_base.empty()) {
    return Error{ErrorCode::invalid_argument,
                 "nothing to compare with: give --base MODEL or --base FILE, or --save-base FILE "
                 "to keep MODEL as a base"};
  }
  if (compares() && !directory_exists(options_.base)) {
    if (options_.pair || !options_.save_base.empty()) {
      return Error{ErrorCode::invalid_argument,
                   options_.base + ": --pair and --save-base need a model directory as --base"};
    }
    NIBBLE_ASSIGN_OR_RETURN(base_file_, eval::BaseFileReader::open(options_.base));
  }
  NIBBLE_ASSIGN_OR_RETURN(model_, OpenedCheckpoint::open(options_.model.model));
  if (compares() && !base_file_) {
    NIBBLE_ASSIGN_OR_RETURN(base_, OpenedCheckpoint::open(options_.base));
  }
  if (base_ && base_->config().vocab_size != model_->config().vocab_size) {
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("the two models do not compare: {} has a vocabulary of {}, {} one of {}",
                    options_.base, base_->config().vocab_size, options_.model.model,
                    model_->config().vocab_size)};
  }
  NIBBLE_ASSIGN_OR_RETURN(compute_, make_compute_device(device_choice(options_.model)));
  return {};
}

Result<void> KldComparison::open_text() {
  NIBBLE_ASSIGN_OR_RETURN(tokenizer_, tokenizer::Tokenizer::load(options_.model.model));
  if (!eval_.data.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(text_, read_eval_text(eval_, *tokenizer_, model_->config()));
  } else if (!base_file_) {
    return Error{ErrorCode::invalid_argument, "--data is required unless --base is a base file"};
  }
  if (base_) return check_base_tokens();
  if (base_file_) return take_file_tokens();
  return {};
}

// The same text must be the same tokens for both models.
Result<void> KldComparison::check_base_tokens() const {
  NIBBLE_ASSIGN_OR_RETURN(const auto tokenizer, tokenizer::Tokenizer::load(options_.base));
  NIBBLE_ASSIGN_OR_RETURN(const EvalText text, read_eval_text(eval_, tokenizer, base_->config()));
  if (text.token_sha256 == text_.token_sha256) return {};
  return Error{ErrorCode::invalid_argument,
               fmt::format("the two models make different tokens of {}", eval_.data)};
}

Result<void> KldComparison::take_file_tokens() {
  const auto& sequences = base_file_->sequences();
  const std::string digest = eval::sequences_digest(sequences);
  if (eval_.data.empty()) {
    text_.sequences = sequences;
    text_.unit = "sequences";
    text_.context = base_file_->info().context;
    text_.data_sha256 = base_file_->info().data_sha256;
    text_.token_sha256 = digest;
    if (eval_.limit > 0) {
      text_.sequences.resize(std::min(text_.sequences.size(), static_cast<size_t>(eval_.limit)));
    }
    return {};
  }
  if (digest == text_.token_sha256) return {};
  return Error{ErrorCode::invalid_argument,
               fmt::format("{} was made from other tokens than {} gives; leave --data out to use "
                           "the file's own",
                           options_.base, eval_.data)};
}

DType KldComparison::model_kv() const {
  return kv_dtype_of(options_.model.kv_cache_dtype, options_.model.arithmetic);
}
DType KldComparison::base_kv() const {
  if (!compares()) return model_kv();
  return kv_dtype_of(options_.base_kv_cache_dtype, options_.model.arithmetic);
}

Result<void> KldComparison::compute() {
  device::Device* device = compute_.device.get();
  const KldModel model = {device, model_->source.get(), model_kv()};
  KldModel base = model;
  if (base_) base = {device, base_->source.get(), base_kv()};
  eval::KldParties parties;
  parties.base_file = base_file_.get();
  if (!base_file_) parties.base = &base;
  if (compares()) parties.model = &model;
  if (parties.base != nullptr && compares()) add_probes(base, parties.probes);
  std::unique_ptr<eval::BaseFileWriter> writer;
  if (!options_.save_base.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(const eval::BaseFileInfo info, base_info());
    NIBBLE_ASSIGN_OR_RETURN(
        writer, eval::BaseFileWriter::create(options_.save_base, info, text_.sequences));
    parties.writer = writer.get();
  }
  eval::KldOptions run_options;
  run_options.layers = options_.layers;
  run_options.probe_rows = options_.noise_tokens;
  NIBBLE_ASSIGN_OR_RETURN(run_options.hidden_bytes, parse_bytes(options_.hidden_memory));
  eval::KldRun run(*compute_.pool, run_options, std::move(parties));
  Progress bar("running");
  const auto progress = [&](int64_t done, int64_t total, const std::string& detail) {
    bar.update(done, total, detail);
    return interrupt_signal() == 0;
  };
  NIBBLE_ASSIGN_OR_RETURN(
      outcome_, run.run(text_.sequences, progress, [](const std::vector<PositionRecord>&) {}));
  if (writer) base_bytes_ = writer->bytes();
  return {};
}

void KldComparison::add_probes(const KldModel& base, std::vector<eval::NoiseProbe>& probes) {
  if (options_.noise_tokens == 0) return;
  probes.push_back({"token by token", base, true});
  if (!options_.noise_at_other_level || !compute_.device->shares_host_memory()) return;
  const char* forced = std::getenv("NIBBLE_FORCE_ISA");
  const auto level = select_isa_level(forced == nullptr ? "" : forced);
  const auto other = level.ok() ? other_isa_level(level.value()) : std::nullopt;
  if (!other) return;
  probe_device_ = device::make_cpu_device(compute_.device->arithmetic(), *other, *compute_.pool);
  probes.push_back({fmt::format("at level {}", isa_level_name(*other)),
                    {probe_device_.get(), base.source, base.kv_dtype},
                    false});
}

Result<eval::BaseFileInfo> KldComparison::base_info() const {
  eval::BaseFileInfo info;
  const formats::ModelConfig& config = base_ ? base_->config() : model_->config();
  info.format = options_.format == "llama" ? BaseFormat::llama : BaseFormat::nibble;
  info.layout.vocab_size = config.vocab_size;
  if (info.format == BaseFormat::nibble) {
    NIBBLE_ASSIGN_OR_RETURN(info.layout.encoding, eval::parse_base_encoding(options_.format));
  }
  if (info.layout.encoding == BaseEncoding::top_entries) {
    info.layout.kept = std::min(options_.base_topk, config.vocab_size);
  }
  info.layout.has_tail =
      info.format == BaseFormat::nibble && info.layout.encoding == BaseEncoding::codes16;
  info.context = text_.context;
  info.model = base_folder();
  info.quantization = quantization_name(config);
  info.arithmetic = options_.model.arithmetic;
  info.kv_dtype = dtype_name(base_kv());
  info.device = compute_.device->description();
  info.mode = eval_.mode;
  info.data_sha256 = text_.data_sha256;
  return info;
}

eval::KldResult KldComparison::result() const {
  eval::KldResult result;
  const auto run_text = [&](DType kv) {
    return fmt::format("{}, KV {}, {}", options_.model.arithmetic, dtype_name(kv),
                       compute_.device->description());
  };
  result.model = options_.model.model;
  result.model_run = run_text(model_kv());
  result.base = options_.base;
  result.base_run = base_file_ ? file_run() : run_text(base_kv());
  result.text = fmt::format("{} {}{}", text_.sequences.size(), text_.unit,
                            eval_.data.empty() ? " of the base file" : " of " + eval_.data);
  if (text_.context > 0) result.text += fmt::format(", context {}", text_.context);
  if (eval_.limit > 0) result.text += " (limited by --limit)";
  if (base_file_) add_file_remarks(result.remarks);
  if (base_ && options_.model.activations != "full") {
    result.remarks.push_back(fmt::format(
        "the base ran with --activations {}, too: for a base without give a file of --save-base",
        options_.model.activations));
  }
  result.report = eval::make_kld_report(outcome_.records, token_kinds());
  result.layers = outcome_.layers;
  result.routing = outcome_.routing;
  for (const eval::NoiseResult& noise : outcome_.noise) {
    result.noise.push_back(eval::noise_floor_of(noise.name, noise.records));
  }
  if (std::string remark = eval::noise_remark(result); !remark.empty()) {
    result.remarks.push_back(std::move(remark));
  }
  for (const size_t index : result.report.worst) {
    result.worst.push_back(worst_position(outcome_.records[index]));
  }
  return result;
}

std::string KldComparison::file_run() const {
  const eval::BaseFileInfo& info = base_file_->info();
  if (info.format == BaseFormat::llama) return "a file in llama.cpp's layout";
  return fmt::format("a file made from {}: {}, KV {}, {}", info.model, info.arithmetic,
                     info.kv_dtype, info.device);
}

void KldComparison::add_file_remarks(std::vector<std::string>& remarks) const {
  const eval::BaseFileInfo& info = base_file_->info();
  remarks.push_back("noise floor and layers need the base model: give its directory as --base");
  if (info.format == BaseFormat::llama) {
    remarks.push_back(
        "llama.cpp's layout: 16-bit codes taken as they are, terms with ln P <= -16 left out; "
        "not "
        "the plain sum");
  } else if (info.layout.encoding == BaseEncoding::top_entries) {
    remarks.push_back(
        fmt::format("lower bound: the base keeps its {} best entries and one bucket for all others",
                    info.layout.kept));
  } else if (info.layout.encoding == BaseEncoding::codes16) {
    remarks.push_back(
        "the base is rounded to 16-bit codes over a range of 24 nats, all entries below are one "
        "bucket; --format exact keeps it as it is");
  }
  if (info.format == BaseFormat::nibble && info.arithmetic != options_.model.arithmetic) {
    remarks.push_back(fmt::format("the base ran with arithmetic {}, the model with {}",
                                  info.arithmetic, options_.model.arithmetic));
  }
}

const std::vector<int32_t>& KldComparison::tokens_of(const PositionRecord& record) const {
  return text_.sequences[static_cast<size_t>(record.sequence)].tokens;
}

std::vector<eval::TokenKind> KldComparison::token_kinds() const {
  std::vector<eval::TokenKind> kinds;
  const auto bytes = [&](int32_t id) {
    return tokenizer_->is_added(id) ? std::string_view() : tokenizer_->token_bytes(id);
  };
  for (const PositionRecord& record : outcome_.records) {
    const int32_t previous = tokens_of(record)[static_cast<size_t>(record.position) - 1];
    kinds.push_back(eval::token_kind(bytes(record.token), bytes(previous)));
  }
  return kinds;
}

eval::WorstPosition KldComparison::worst_position(const PositionRecord& record) const {
  const std::span<const int32_t> tokens = tokens_of(record);
  const auto text = [&](int64_t begin, int64_t end) {
    begin = std::max<int64_t>(begin, 0);
    end = std::min<int64_t>(end, static_cast<int64_t>(tokens.size()));
    return tokenizer_->decode(
        tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
        tokenizer::SkipSpecial::no);
  };
  const auto one = [&](int32_t id) {
    return tokenizer_->decode(std::span(&id, 1), tokenizer::SkipSpecial::no);
  };
  const int64_t at = record.position;
  return {record,
          text(at - kTokensBefore, at),
          one(record.token),
          text(at + 1, at + 1 + kTokensAfter),
          one(record.base_top),
          one(record.top)};
}

}  // namespace nibble::cli
