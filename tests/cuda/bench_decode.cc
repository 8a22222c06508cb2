// Speed of decode and prefill steps through the executor, dummy weights, FP8 KV, random token ids.
//
// Time is the wall clock of Executor::run, sampling and the wait included. Bytes are counted from
// the configuration, experts as the routing really chose them; the wall is those bytes over the
// read bandwidth measured in this process.
#include "base/rng.h"
#include "device/cuda/cuda_device.h"
#include "formats/hf_config.h"
#include "model/dummy_source.h"
#include "model/loaded_model.h"
#include "runtime/model_executor.h"
#include "tests/cuda/cuda_check.h"
#include "tests/cuda/read_bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <set>

namespace nibble::check {
namespace {

using Clock = std::chrono::steady_clock;
using device::SequenceKind;

constexpr int32_t kMaxRows = 8192, kMaxSequences = 32, kMaxTokens = 33 * 1024;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Bench {
 public:
  explicit Bench(const std::string& folder);
  void decode(int32_t sequences, int32_t depth);
  void prefill(int32_t tokens);
  void profile();

 private:
  void add_sequence(runtime::Step& step, int32_t sequence, int32_t q_len, int32_t kv_len,
                    SequenceKind kind);
  double run(const runtime::Step& step);
  double distinct_experts(int32_t sequences, int32_t depth);
  runtime::Step decode_step(int32_t sequences, int32_t kv_len);
  double dense_bytes() const;
  double expert_bytes() const;

  std::unique_ptr<device::Device> gpu_;
  std::unique_ptr<model::DummySource> source_;
  std::unique_ptr<model::LoadedModel> model_;
  std::unique_ptr<runtime::ModelExecutor> executor_;
  std::vector<std::vector<int32_t>> pages_;
  uint64_t draw_ = 0;
  double read_bytes_per_second_ = 0;
};

Bench::Bench(const std::string& folder) {
  read_bytes_per_second_ = measure_read_bandwidth();
  std::printf("read bandwidth %.0f GB/s\n", read_bytes_per_second_ * 1e-9);
  auto config = formats::load_model_config(folder);
  NIBBLE_CHECK(config.ok(), "configuration", config.ok() ? "" : config.error().message);
  gpu_ = open_gpu(device::Arithmetic::exact);
  source_ = std::make_unique<model::DummySource>(config.value());
  const auto start = Clock::now();
  auto loaded = model::LoadedModel::load(*gpu_, *source_, [](int, int) { return true; });
  NIBBLE_CHECK(loaded.ok(), "loading", loaded.ok() ? "" : loaded.error().message);
  model_ = std::move(loaded).value();
  std::printf("%s: dummy weights made and packed in %.1f s\n", folder.c_str(),
              seconds_since(start));
  runtime::ModelExecutorOptions options;
  options.capacity = {kMaxRows, kMaxSequences, kMaxTokens / 64, kMaxSequences, kMaxSequences};
  options.num_pages = kMaxTokens / 64 + kMaxSequences * 16;
  options.num_slots = kMaxSequences;
  options.kv_dtype = DType::f8_e4m3;
  options.vocab_limit = static_cast<int32_t>(config.value().vocab_size);
  auto executor =
      runtime::ModelExecutor::create(*gpu_, source_->config(), model_->weights(), options);
  NIBBLE_CHECK(executor.ok(), "executor", executor.ok() ? "" : executor.error().message);
  executor_ = std::move(executor).value();
  for (int32_t s = 0; s < kMaxSequences; ++s) {
    std::vector<int32_t> pages;
    const int32_t count = s == 0 ? kMaxTokens / 64 : 16;
    const int32_t first = s == 0 ? 0 : kMaxTokens / 64 + s * 16;
    for (int32_t p = 0; p < count; ++p) pages.push_back(first + p);
    pages_.push_back(std::move(pages));
  }
}

void Bench::add_sequence(runtime::Step& step, int32_t sequence, int32_t q_len, int32_t kv_len,
                         SequenceKind kind) {
  const auto first = static_cast<int32_t>(step.token_ids.size());
  const int32_t read = kv_len == q_len ? device::kZeroState : sequence;
  step.sequences.push_back({kind, first, q_len, kv_len, read, sequence});
  step.pages.emplace_back(pages_[static_cast<size_t>(sequence)]);
  for (int32_t i = 0; i < q_len; ++i) {
    step.token_ids.push_back(static_cast<int32_t>(
        random_bits(11, draw_++) % static_cast<uint64_t>(source_->config().vocab_size)));
    for (int axis = 0; axis < 3; ++axis) step.positions.push_back(kv_len - q_len + i);
  }
  step.logit_rows.push_back(first + q_len - 1);
  device::SampleRow sample;
  sample.logits_row = static_cast<int32_t>(step.samples.size());
  sample.top_logprobs = -1;
  step.samples.push_back(sample);
}

runtime::Step Bench::decode_step(int32_t sequences, int32_t kv_len) {
  runtime::Step step;
  for (int32_t s = 0; s < sequences; ++s) {
    add_sequence(step, s, 1, kv_len, SequenceKind::decode);
  }
  return step;
}

double Bench::run(const runtime::Step& step) {
  std::vector<device::SampleResult> results(step.samples.size());
  const auto start = Clock::now();
  const Result<void> done = executor_->run(step, results);
  const double seconds = seconds_since(start);
  NIBBLE_CHECK(done.ok() && results[0].finite, "step", results[0].token);
  return seconds;
}

double Bench::distinct_experts(int32_t sequences, int32_t depth) {
  const formats::ModelConfig& c = source_->config();
  const auto count = static_cast<size_t>(c.num_hidden_layers * sequences * c.num_experts_per_tok);
  auto memory = gpu_->allocate(count * sizeof(int32_t), "routing log");
  NIBBLE_CHECK(memory.ok(), "routing log");
  executor_->set_routing_log(reinterpret_cast<int32_t*>(memory.value()->data()));
  std::vector<int32_t> log(count);
  double total = 0;
  constexpr int kSteps = 8;
  for (int i = 0; i < kSteps; ++i) {
    (void)run(decode_step(sequences, depth + i + 2));
    gpu_->download(std::as_writable_bytes(std::span(log)), memory.value()->data());
    const auto per_layer = static_cast<std::ptrdiff_t>(sequences * c.num_experts_per_tok);
    for (std::ptrdiff_t layer = 0; layer < c.num_hidden_layers; ++layer) {
      const auto first = log.begin() + layer * per_layer;
      total += static_cast<double>(std::set<int32_t>(first, first + per_layer).size());
    }
  }
  executor_->set_routing_log(nullptr);
  return total / kSteps / static_cast<double>(c.num_hidden_layers);
}

/// Weights outside the experts that a step reads, in their formats.
double Bench::dense_bytes() const {
  const formats::ModelConfig& c = source_->config();
  const auto bytes = [&](model::Member member, int layer) {
    const Shape shape = model::expected_shape(member, c);
    return static_cast<double>(
        gpu_->packed_linear_bytes(source_->format(member, layer), shape[0], shape[1]));
  };
  using model::Member;
  double total = bytes(Member::lm_head, -1);
  for (int i = 0; i < c.num_hidden_layers; ++i) {
    total += bytes(Member::router, i) + bytes(Member::shared_expert_gate, i);
    if (c.layer_types[static_cast<size_t>(i)] == formats::LayerType::full_attention) {
      for (const Member m : {Member::q_proj, Member::k_proj, Member::v_proj, Member::o_proj}) {
        total += bytes(m, i);
      }
    } else {
      for (const Member m : {Member::in_proj_qkv, Member::in_proj_z, Member::in_proj_b,
                             Member::in_proj_a, Member::out_proj}) {
        total += bytes(m, i);
      }
    }
  }
  return total;
}

/// One expert of one layer.
double Bench::expert_bytes() const {
  const formats::ModelConfig& c = source_->config();
  return static_cast<double>(gpu_->packed_gate_up_bytes(source_->expert_format(0, false),
                                                        c.moe_intermediate_size, c.hidden_size) +
                             gpu_->packed_linear_bytes(source_->expert_format(0, false),
                                                       c.hidden_size, c.moe_intermediate_size));
}

void Bench::decode(int32_t sequences, int32_t depth) {
  const formats::ModelConfig& c = source_->config();
  const double experts = distinct_experts(sequences, depth);
  for (int i = 0; i < 4; ++i) (void)run(decode_step(sequences, depth + 12 + i));
  std::vector<double> times;
  constexpr int kSteps = 64;
  const auto start = Clock::now();
  for (int i = 0; i < kSteps; ++i) times.push_back(run(decode_step(sequences, depth + 16 + i)));
  const double mean = seconds_since(start) / kSteps;
  std::sort(times.begin(), times.end());
  const auto linear_layers = static_cast<double>(
      std::count(c.layer_types.begin(), c.layer_types.end(), formats::LayerType::linear_attention));
  const double attention_layers = static_cast<double>(c.num_hidden_layers) - linear_layers;
  const double state = linear_layers * 8.0 *
                       static_cast<double>(c.linear_num_value_heads * c.linear_key_head_dim *
                                           c.linear_value_head_dim);
  const double kv = attention_layers * 2.0 *
                    static_cast<double>(c.num_key_value_heads * c.head_dim) *
                    static_cast<double>(depth + 48);
  const double bytes = dense_bytes() +
                       static_cast<double>(c.num_hidden_layers) * (experts + 1) * expert_bytes() +
                       static_cast<double>(sequences) * (state + kv);
  const double wall = bytes / read_bytes_per_second_;
  std::printf(
      "decode %2d sequences depth %5d: median %8.1f us (min %.1f, mean %.1f) %8.1f t/s; "
      "%.1f experts/layer, %.3f GB, wall %.1f us = %.1f t/s, share %.1f %%\n",
      sequences, depth, 1e6 * times[kSteps / 2], 1e6 * times[0], 1e6 * mean,
      sequences / times[kSteps / 2], experts, bytes * 1e-9, 1e6 * wall, sequences / wall,
      100 * wall / times[kSteps / 2]);
  std::fflush(stdout);
}

void Bench::prefill(int32_t tokens) {
  std::vector<double> times;
  for (int i = 0; i < 4; ++i) {
    runtime::Step step;
    add_sequence(step, 0, tokens, tokens, SequenceKind::prefill);
    const double seconds = run(step);
    if (i > 0) times.push_back(seconds);
  }
  std::sort(times.begin(), times.end());
  std::printf("prefill %d tokens in one step: median %.2f ms (min %.2f) %.0f t/s\n", tokens,
              1e3 * times[times.size() / 2], 1e3 * times[0], tokens / times[times.size() / 2]);
  std::fflush(stdout);
}

void Bench::profile() {
  const auto prefill_step = [&] {
    runtime::Step step;
    add_sequence(step, 0, kMaxRows, kMaxRows, SequenceKind::prefill);
    return step;
  };
  (void)run(prefill_step());
  (void)run(decode_step(1, kMaxRows + 1));
  (void)run(decode_step(8, 512));
  start_profiler();
  (void)run(prefill_step());
  (void)run(decode_step(1, kMaxRows + 1));
  (void)run(decode_step(8, 512));
  stop_profiler();
}

}  // namespace

void profile_model(const std::string& config) {
  Bench(config).profile();
}

void bench_model(const std::string& config) {
  Bench bench(config);
  bench.decode(1, 0);
  bench.decode(1, 32768 - 128);
  bench.decode(2, 0);
  bench.decode(4, 0);
  bench.decode(8, 0);
  bench.decode(32, 0);
  bench.decode(1, 0);
  bench.prefill(512);
  bench.prefill(2048);
  bench.prefill(8192);
}

}  // namespace nibble::check
