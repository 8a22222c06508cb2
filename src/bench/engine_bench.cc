#include "bench/engine_bench.h"

#include "base/rng.h"
#include "model/loaded_model.h"
#include "runtime/cache_pools.h"
#include "runtime/step_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

namespace nibble::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kBlockRepetitions = 4;
constexpr double kLeastMeterSeconds = 1.0;

Spread spread_of(std::vector<double> samples) {
  Spread out;
  out.samples = samples;
  std::sort(samples.begin(), samples.end());
  out.min = samples.front();
  out.max = samples.back();
  out.median = samples[samples.size() / 2];
  return out;
}

}  // namespace

ReadCosts read_costs(const device::Device& device, const model::WeightSource& source,
                     DType kv_dtype) {
  const formats::ModelConfig& c = source.config();
  ReadCosts out;
  const Shape head = model::expected_shape(model::Member::lm_head, c);
  out.head_bytes = static_cast<int64_t>(
      device.packed_linear_bytes(source.format(model::Member::lm_head, -1), head[0], head[1]));
  for (int layer = 0; layer < c.num_hidden_layers; ++layer) {
    const formats::WeightFormat format = source.expert_format(layer, false);
    out.expert_bytes = static_cast<int64_t>(
        device.packed_gate_up_bytes(format, c.moe_intermediate_size, c.hidden_size) +
        device.packed_linear_bytes(format, c.hidden_size, c.moe_intermediate_size));
    out.dense_bytes += static_cast<int64_t>(model::packed_layer_bytes(device, source, layer)) -
                       c.num_experts * out.expert_bytes;
  }
  const runtime::CacheGeometry geometry =
      runtime::cache_geometry(c, nullptr, kv_dtype, device.activation_dtype());
  out.state_bytes = 2 * static_cast<int64_t>(runtime::state_slot_bytes(geometry));
  out.kv_token_bytes = static_cast<int64_t>(runtime::kv_page_bytes(geometry)) / device::kPageTokens;
  return out;
}

EngineBench::EngineBench(runtime::ModelExecutor& executor, device::Device& device,
                         const formats::ModelConfig& config, const runtime::StepCapacity& capacity,
                         const ReadCosts& costs)
    : executor_(executor),
      device_(device),
      config_(config),
      capacity_(capacity),
      costs_(costs),
      step_(runtime::make_step(capacity)),
      routing_log_(static_cast<size_t>(config.num_hidden_layers * capacity.rows *
                                       config.num_experts_per_tok)),
      results_(static_cast<size_t>(capacity.logit_rows)) {}

Result<std::unique_ptr<EngineBench>> EngineBench::create(runtime::ModelExecutor& executor,
                                                         device::Device& device,
                                                         const formats::ModelConfig& config,
                                                         const runtime::StepCapacity& capacity,
                                                         const ReadCosts& costs) {
  auto out =
      std::unique_ptr<EngineBench>(new EngineBench(executor, device, config, capacity, costs));
  NIBBLE_ASSIGN_OR_RETURN(
      out->routing_memory_,
      device.allocate(out->routing_log_.size() * sizeof(int32_t), "routing log"));
  executor.set_routing_log(reinterpret_cast<int32_t*>(out->routing_memory_->data()));
  return out;
}

EngineBench::~EngineBench() {
  executor_.set_routing_log(nullptr);
}

void EngineBench::start_sequences(int64_t count, uint64_t seed) {
  seed_ = seed;
  drawn_ = 0;
  sequences_.assign(static_cast<size_t>(count), {});
  int32_t page = 0;
  for (Sequence& sequence : sequences_) {
    for (int32_t i = 0; i < capacity_.pages_per_sequence; ++i) sequence.pages.push_back(page++);
  }
}

Result<void> EngineBench::step(int32_t tokens_per_sequence, device::SequenceKind kind,
                               bool wants_logits, Tally* tally) {
  step_.token_ids.clear();
  step_.positions.clear();
  step_.sequences.clear();
  step_.pages.clear();
  step_.logit_rows.clear();
  step_.samples.clear();
  for (size_t s = 0; s < sequences_.size(); ++s) {
    Sequence& sequence = sequences_[s];
    const auto slot = static_cast<int32_t>(s);
    step_.sequences.push_back({kind, static_cast<int32_t>(step_.token_ids.size()),
                               tokens_per_sequence, sequence.length + tokens_per_sequence,
                               sequence.length == 0 ? device::kZeroState : slot, slot});
    for (int32_t i = 0; i < tokens_per_sequence; ++i) {
      step_.token_ids.push_back(static_cast<int32_t>(random_bits(seed_, drawn_++) %
                                                     static_cast<uint64_t>(config_.vocab_size)));
      step_.positions.insert(step_.positions.end(), 3, sequence.length + i);
    }
    sequence.length += tokens_per_sequence;
    step_.pages.push_back(sequence.pages);
    if (wants_logits) {
      step_.logit_rows.push_back(static_cast<int32_t>(step_.token_ids.size()) - 1);
      step_.samples.push_back({.logits_row = slot});
    }
  }
  const auto results = std::span(results_).first(step_.samples.size());
  const auto started = Clock::now();
  NIBBLE_RETURN_IF_ERROR(executor_.run(step_, results));
  const double seconds = std::chrono::duration<double>(Clock::now() - started).count();
  for (const device::SampleResult& result : results) {
    if (!result.finite) return Error{ErrorCode::internal, "a logit is not finite: the run is void"};
  }
  if (tally != nullptr) {
    device_.download(std::as_writable_bytes(std::span(routing_log_)), routing_memory_->data());
    device_.synchronize();
    tally->seconds += seconds;
    count(static_cast<int64_t>(step_.token_ids.size()), wants_logits, *tally);
  }
  return {};
}

void EngineBench::count(int64_t rows, bool wants_logits, Tally& tally) const {
  ++tally.steps;
  const int64_t choices = rows * config_.num_experts_per_tok;
  int64_t touches = 0;
  for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
    std::vector<bool> seen(static_cast<size_t>(config_.num_experts), false);
    for (int64_t i = 0; i < choices; ++i) {
      const auto expert =
          static_cast<size_t>(routing_log_[static_cast<size_t>(layer * choices + i)]);
      if (!seen[expert]) ++touches;
      seen[expert] = true;
      tally.touched[static_cast<size_t>(layer)][expert] = true;
    }
  }
  tally.expert_touches += touches;
  tally.bytes +=
      costs_.dense_bytes + touches * costs_.expert_bytes + (wants_logits ? costs_.head_bytes : 0);
  for (const Sequence& sequence : sequences_) {
    tally.bytes += costs_.state_bytes + sequence.length * costs_.kv_token_bytes;
  }
}

Result<void> EngineBench::prefill(int64_t tokens, bool wants_logits,
                                  const std::function<bool()>& go_on, Tally* tally) {
  const auto sequences = static_cast<int64_t>(sequences_.size());
  // Chunks end on the 64-token grid, as the scheduler's do.
  const int64_t chunk = std::max<int64_t>(64, capacity_.rows / sequences / 64 * 64);
  for (int64_t done = 0; done < tokens; done += chunk) {
    if (!go_on()) return Error{ErrorCode::cancelled, "the benchmark was interrupted"};
    const auto part = static_cast<int32_t>(std::min(chunk, tokens - done));
    const bool last = done + part == tokens;
    NIBBLE_RETURN_IF_ERROR(step(part, device::SequenceKind::prefill, wants_logits && last, tally));
  }
  return {};
}

Result<EngineTestResult> EngineBench::run(const EngineTest& test, int repetitions,
                                          const std::function<bool()>& go_on,
                                          const std::function<double()>& joules) {
  std::vector<double> speeds, seconds;
  EngineTestResult out;
  auto started = Clock::now();
  double joules_before = 0;
  for (int repetition = -1; repetition < repetitions; ++repetition) {  // the first one warms up
    Tally tally;
    tally.touched.assign(static_cast<size_t>(config_.num_hidden_layers),
                         std::vector<bool>(static_cast<size_t>(config_.num_experts), false));
    start_sequences(test.sequences, static_cast<uint64_t>(repetition + 2));
    if (repetition == 0) {
      started = Clock::now();
      joules_before = joules ? joules() : 0;
    }
    NIBBLE_RETURN_IF_ERROR(prefill(test.depth, false, go_on, nullptr));
    NIBBLE_RETURN_IF_ERROR(prefill(test.prompt_tokens, true, go_on, &tally));
    for (int64_t i = 0; i < test.generated_tokens; ++i) {
      if (!go_on()) return Error{ErrorCode::cancelled, "the benchmark was interrupted"};
      NIBBLE_RETURN_IF_ERROR(step(1, device::SequenceKind::decode, true, &tally));
    }
    if (repetition < 0) continue;
    const auto tokens =
        static_cast<double>((test.prompt_tokens + test.generated_tokens) * test.sequences);
    speeds.push_back(tokens / tally.seconds);
    seconds.push_back(tally.seconds);
    out.bytes_per_step = tally.bytes / tally.steps;
    out.mean_distinct_experts = static_cast<double>(tally.expert_touches) /
                                static_cast<double>(tally.steps * config_.num_hidden_layers);
    out.min_distinct_experts = config_.num_experts;
    for (const std::vector<bool>& layer : tally.touched) {
      out.min_distinct_experts =
          std::min<int64_t>(out.min_distinct_experts, std::count(layer.begin(), layer.end(), true));
    }
    out.gigabytes_per_second = static_cast<double>(tally.bytes) * 1e-9;
    out.step_seconds = tally.seconds / static_cast<double>(tally.steps);
  }
  if (joules) {
    const double elapsed = std::chrono::duration<double>(Clock::now() - started).count();
    // The counter moves every 20 to 100 ms.
    if (elapsed >= kLeastMeterSeconds) out.watts = (joules() - joules_before) / elapsed;
  }
  out.blocks = executor_.time_blocks(step_, kBlockRepetitions);
  out.tokens_per_second = spread_of(std::move(speeds));
  out.gigabytes_per_second /= spread_of(std::move(seconds)).median;
  return out;
}

}  // namespace nibble::bench
