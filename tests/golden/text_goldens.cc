#include "tests/golden/text_goldens.h"

#include "base/cpu_features.h"
#include "base/json.h"
#include "device/cpu/cpu_device.h"
#include "device/reference/reference_device.h"
#include "kernels/cpu/rope/rope_table.h"
#include "tests/golden/golden_file.h"
#include "tests/support/model_harness.h"
#include "tests/support/trace_observer.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdlib>
#include <numeric>

namespace nibble::golden {
namespace {

using device::Arithmetic;
using test::ModelHarness;
using test::TraceObserver;

constexpr double kF32Limit = 5e-5;
constexpr size_t kStateStride = 16;  // state_sub holds every 16th row and column

ModelHarness::DeviceFactory cpu_factory(Arithmetic arithmetic) {
  return [arithmetic](ThreadPool& pool) {
    const char* forced = std::getenv("NIBBLE_FORCE_ISA");
    auto level = select_isa_level(forced == nullptr ? "" : forced);
    NIBBLE_CHECK(level.ok(), "NIBBLE_FORCE_ISA", level.ok() ? "" : level.error().message);
    return device::make_cpu_device(arithmetic, level.value(), pool);
  };
}

// Rows of the rotary table as the goldens hold it: [rows][rotary_dim], the second half repeats the
// first, for text positions, from the product's own table function.
std::vector<float> rope_table_rows(const formats::ModelConfig& config,
                                   const std::vector<int32_t>& rows, bool cosines) {
  const int64_t pairs = config.rotary_dim() / 2;
  std::vector<float> frequencies(static_cast<size_t>(pairs));
  cpu::rope_inverse_frequencies(config.rope_theta, config.rotary_dim(), frequencies.data());
  std::vector<float> table(static_cast<size_t>(2 * pairs)), out;
  for (const int32_t row : rows) {
    const int32_t position[3] = {row, row, row};
    cpu::RopeTableArgs args{.positions = position,
                            .inverse_frequencies = frequencies.data(),
                            .table = table.data(),
                            .rotary_dim = config.rotary_dim(),
                            .mrope_section = {}};
    for (size_t axis = 0; axis < 3; ++axis) {
      args.mrope_section[axis] = static_cast<int32_t>(config.mrope_section[axis]);
    }
    cpu::rope_table(args, 0, 1);
    for (int half = 0; half < 2; ++half) {
      const auto first = table.begin() + (cosines ? 0 : pairs);
      out.insert(out.end(), first, first + pairs);
    }
  }
  return out;
}

std::unique_ptr<device::Device> reference_device(ThreadPool& pool) {
  return device::make_reference_device(Arithmetic::exact, pool);
}

// One family: its files, its model, and the checks.
class TextFamily {
 public:
  TextFamily(std::string folder, std::string model, std::string name, Report& report,
             DeviceOf device)
      : folder_(std::move(folder)),
        model_(std::move(model)),
        name_(std::move(name)),
        report_(report),
        device_(std::move(device)) {}

  void run();

 private:
  Result<GoldenFile> file(const char* name) const { return GoldenFile::open(folder_ + "/" + name); }
  Result<void> trace();
  Result<void> prompts();
  Result<void> decode();
  Result<void> batch();
  Result<void> exact();

  void compare(const std::string& name, const std::vector<float>& mine,
               const std::vector<float>& golden) {
    check(name, max_error(mine, golden), kF32Limit);
  }
  // name: "trace.L0.attn.q"; the part before the first dot is the report's group.
  void check(const std::string& name, double deviation, double limit) {
    const size_t dot = name.find('.');
    const std::string full = name_ + "/" + name.substr(0, dot) + "/" + name.substr(dot + 1);
    const std::string detail = "limit " + std::to_string(limit);
    if (deviation <= limit) {
      report_.pass(full, deviation, "relative error");
    } else {
      report_.fail(full, detail, deviation);
    }
  }
  // A trace tensor as the golden holds it: all rows, or the listed ones.
  std::vector<float> traced(const TraceObserver& seen, const std::string& name,
                            const GoldenTensor& golden, const std::vector<int32_t>& rows) const;
  void compare_states(ModelHarness& harness, const GoldenFile& golden, const std::string& prefix);
  void compare_routing_margin(const TraceObserver& seen, const GoldenFile& golden);

  std::string folder_;
  std::string model_;
  std::string name_;
  Report& report_;
  DeviceOf device_;
  std::unique_ptr<ModelHarness> f32_;
};

std::vector<float> TextFamily::traced(const TraceObserver& seen, const std::string& name,
                                      const GoldenTensor& golden,
                                      const std::vector<int32_t>& rows) const {
  const auto it = seen.tensors.find(name);
  if (it == seen.tensors.end()) return {};
  if (it->second.size() == golden.values.size()) return it->second;
  const size_t width = golden.values.size() / rows.size();
  return select_rows(it->second, width, rows);
}

// min over layers of (last chosen - first rejected router logit), per row.
void TextFamily::compare_routing_margin(const TraceObserver& seen, const GoldenFile& golden) {
  const formats::ModelConfig& c = f32_->config();
  const std::vector<float> wanted = golden.read("router_margin").values;
  std::vector<float> margins(wanted.size(), INFINITY);
  for (int layer = 0; layer < c.num_hidden_layers; ++layer) {
    const std::vector<float>& logits =
        seen.tensors.at(TraceObserver::key(layer, "moe.router_logits"));
    for (size_t row = 0; row < margins.size(); ++row) {
      const auto first = logits.begin() + static_cast<std::ptrdiff_t>(row) * c.num_experts;
      std::vector<float> sorted(first, first + c.num_experts);
      std::sort(sorted.rbegin(), sorted.rend());
      const auto k = static_cast<size_t>(c.num_experts_per_tok);
      margins[row] = std::min(margins[row], sorted[k - 1] - sorted[k]);
    }
  }
  // A margin is a difference of logits: its error is theirs, so it is judged on their scale.
  const std::vector<float>& logits = seen.tensors.at(TraceObserver::key(0, "moe.router_logits"));
  float scale = 0;
  for (const float value : logits) scale = std::max(scale, std::abs(value));
  double worst = 0;
  for (size_t row = 0; row < margins.size(); ++row) {
    worst = std::max(worst, std::abs(static_cast<double>(margins[row]) - wanted[row]) / scale);
  }
  check("trace.router_margin", worst, kF32Limit);
}

Result<void> TextFamily::trace() {
  NIBBLE_ASSIGN_OR_RETURN(const GoldenFile golden, file("trace.safetensors"));
  const std::vector<int32_t> ids = golden.read_ids("ids");
  const std::vector<int32_t> rows = golden.read_ids("rows");
  TraceObserver seen;
  f32_->prefill(0, ids, 0, &seen);
  for (const std::string& name : golden.names()) {
    if (name == "ids" || name == "rows" || name == "router_margin") continue;
    const GoldenTensor wanted = golden.read(name);
    std::vector<float> mine = traced(seen, name, wanted, rows);
    const int layer = name[0] == 'L' ? std::atoi(name.c_str() + 1) : -1;
    if (name.ends_with(".gdn.state")) mine = f32_->recurrent_state(layer, 0);
    if (name.ends_with(".gdn.conv_state")) mine = f32_->conv_state(layer, 0);
    if (name.ends_with(".attn.cos") || name.ends_with(".attn.sin")) {
      mine = rope_table_rows(f32_->config(), rows, name.ends_with(".attn.cos"));
    }
    compare("trace." + name, mine, wanted.values);
  }
  compare_routing_margin(seen, golden);
  return {};
}

void TextFamily::compare_states(ModelHarness& harness, const GoldenFile& golden,
                                const std::string& prefix) {
  const formats::ModelConfig& c = harness.config();
  const auto heads = static_cast<size_t>(c.linear_num_value_heads);
  const auto dk = static_cast<size_t>(c.linear_key_head_dim);
  const auto dv = static_cast<size_t>(c.linear_value_head_dim);
  for (int layer = 0; layer < c.num_hidden_layers; ++layer) {
    const std::string at = prefix + "L" + std::to_string(layer) + ".";
    if (golden.has(at + "state_sub")) {
      const std::vector<float> state = harness.recurrent_state(layer, 0);
      std::vector<float> sub, norms;
      for (size_t h = 0; h < heads; ++h) {
        double sum = 0;
        for (size_t i = 0; i < dk * dv; ++i) {
          const double value = state[h * dk * dv + i];
          sum += value * value;
          if (i / dv % kStateStride == 0 && i % dv % kStateStride == 0) {
            sub.push_back(state[h * dk * dv + i]);
          }
        }
        norms.push_back(static_cast<float>(std::sqrt(sum)));
      }
      compare(at + "state_sub", sub, golden.read(at + "state_sub").values);
      if (golden.has(at + "state_norm")) {
        compare(at + "state_norm", norms, golden.read(at + "state_norm").values);
      }
    }
    if (golden.has(at + "conv_state")) {
      compare(at + "conv_state", harness.conv_state(layer, 0),
              golden.read(at + "conv_state").values);
    }
    if (golden.has(at + "k_tail")) {
      const GoldenTensor k = golden.read(at + "k_tail");
      const auto count = static_cast<int32_t>(k.shape[0]);
      compare(at + "k_tail", harness.kv_tail(layer, 0, count, false), k.values);
      compare(at + "v_tail", harness.kv_tail(layer, 0, count, true),
              golden.read(at + "v_tail").values);
    }
  }
}

Result<void> TextFamily::prompts() {
  NIBBLE_ASSIGN_OR_RETURN(const GoldenFile golden, file("prompts.safetensors"));
  const auto vocab = static_cast<size_t>(f32_->config().vocab_size);
  for (const std::string& name : golden.names()) {
    if (!name.ends_with(".ids")) continue;
    const std::string prefix = name.substr(0, name.size() - 3);
    const std::vector<int32_t> ids = golden.read_ids(name);
    const std::vector<int32_t> rows = golden.read_ids(prefix + "rows");
    const std::vector<float> wanted = golden.read(prefix + "logits").values;
    // Whole, in chunks that end on the 64 grid, in chunks that do not, and token by token.
    const std::vector<float> whole = f32_->prefill(0, ids, 0);
    compare(prefix + "logits", select_rows(whole, vocab, rows), wanted);
    std::vector<float> argmax;
    for (size_t row = 0; row < ids.size(); ++row) {
      const auto first = whole.begin() + static_cast<std::ptrdiff_t>(row * vocab);
      argmax.push_back(static_cast<float>(
          std::max_element(first, first + static_cast<std::ptrdiff_t>(vocab)) - first));
    }
    compare(prefix + "argmax", argmax, golden.read(prefix + "argmax").values);
    compare_states(*f32_, golden, prefix);
    for (const int32_t chunk : {64, 48, 1}) {
      if (static_cast<size_t>(chunk) >= ids.size()) continue;
      const std::vector<float> split = f32_->prefill(0, ids, chunk);
      compare(prefix + "logits in chunks of " + std::to_string(chunk),
              select_rows(split, vocab, rows), wanted);
    }
  }
  return {};
}

Result<void> TextFamily::decode() {
  NIBBLE_ASSIGN_OR_RETURN(const GoldenFile golden, file("decode.safetensors"));
  const auto vocab = static_cast<std::ptrdiff_t>(f32_->config().vocab_size);
  const std::vector<int32_t> tokens = golden.read_ids("tokens");
  std::vector<float> last = f32_->prefill(0, golden.read_ids("prompt"), 0);
  last.erase(last.begin(), last.end() - vocab);
  std::vector<float> logits, chosen;
  for (const int32_t token : tokens) {
    logits.insert(logits.end(), last.begin(), last.end());
    chosen.push_back(static_cast<float>(std::max_element(last.begin(), last.end()) - last.begin()));
    last = f32_->step({{0, {token}, device::SequenceKind::decode}});
  }
  compare("decode.tokens", chosen, golden.read("tokens").values);
  compare("decode.logits", logits, golden.read("logits").values);
  compare("decode.logits_after_last", last, golden.read("logits_after_last").values);
  compare_states(*f32_, golden, "");
  return {};
}

Result<void> TextFamily::batch() {
  NIBBLE_ASSIGN_OR_RETURN(const GoldenFile golden, file("batch.safetensors"));
  const std::vector<int32_t> a = golden.read_ids("a.ids");
  const std::vector<int32_t> b = golden.read_ids("b.ids");
  f32_->reset(0);
  f32_->reset(1);
  const std::vector<float> logits = f32_->step({{0, a}, {1, b}});
  const auto vocab = static_cast<size_t>(f32_->config().vocab_size);
  const auto last_rows = [&](size_t end, size_t count) {
    std::vector<int32_t> rows(count);
    std::iota(rows.begin(), rows.end(), static_cast<int32_t>(end - count));
    return select_rows(logits, vocab, rows);
  };
  const GoldenTensor wanted_a = golden.read("a.logits");
  const GoldenTensor wanted_b = golden.read("b.logits");
  compare("batch.a", last_rows(a.size(), static_cast<size_t>(wanted_a.shape[0])), wanted_a.values);
  compare("batch.b", last_rows(a.size() + b.size(), static_cast<size_t>(wanted_b.shape[0])),
          wanted_b.values);
  return {};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Per-row relative L2 of [rows][width] buffers, median over rows.
double median_row_l2(const std::vector<float>& mine, const std::vector<float>& golden,
                     size_t rows) {
  const size_t width = golden.size() / rows;
  std::vector<double> errors;
  for (size_t row = 0; row < rows; ++row) {
    const auto part = [&](const std::vector<float>& from) {
      const auto first = from.begin() + static_cast<std::ptrdiff_t>(row * width);
      return std::vector<float>(first, first + static_cast<std::ptrdiff_t>(width));
    };
    errors.push_back(l2_error(part(mine), part(golden)));
  }
  return median(errors);
}

Result<void> TextFamily::exact() {
  NIBBLE_ASSIGN_OR_RETURN(const GoldenFile golden, file("trace.safetensors"));
  NIBBLE_ASSIGN_OR_RETURN(const Json stats, read_json_file(folder_ + "/stats.json"));
  const Json& bf16 = stats.at("bf16_vs_f32_forced_routing");
  test::HarnessOptions options;
  options.kv_dtype = DType::bf16;
  NIBBLE_ASSIGN_OR_RETURN(auto exact,
                          ModelHarness::open(model_, device_(Arithmetic::exact), 2, options));
  NIBBLE_ASSIGN_OR_RETURN(auto reference, ModelHarness::open(model_, reference_device, 2, options));
  const std::vector<int32_t> ids = golden.read_ids("ids");
  const std::vector<int32_t> rows = golden.read_ids("rows");
  TraceObserver mine, oracle;
  const auto layers = static_cast<int>(exact->config().num_hidden_layers);
  for (int i = 0; i < layers; ++i) {
    mine.forced.push_back(golden.read_ids("L" + std::to_string(i) + ".moe.experts"));
  }
  oracle.forced = mine.forced;
  exact->prefill(0, ids, 0, &mine);
  reference->prefill(0, ids, 0, &oracle);
  for (int i = 0; i < layers; ++i) {
    const std::string name = "L" + std::to_string(i) + ".out";
    const GoldenTensor wanted = golden.read(name);
    const std::vector<float> got = traced(mine, name, wanted, rows);
    const std::vector<float> ideal = traced(oracle, name, wanted, rows);
    check("exact." + name, l2_error(got, wanted.values),
          bf16.at("layer_out_rel_l2").at(static_cast<size_t>(i)).get<double>());
    check("exact." + name + " against the double reference", l2_error(got, ideal),
          0.5 * l2_error(ideal, wanted.values));
  }
  const GoldenTensor logits = golden.read("logits");
  const std::vector<float> got = traced(mine, "logits", logits, rows);
  const std::vector<float> ideal = traced(oracle, "logits", logits, rows);
  check("exact.logits", median_row_l2(got, logits.values, rows.size()),
        0.75 * bf16.at("rel_l2").get<double>());
  check("exact.logits against the double reference", l2_error(got, ideal),
        0.5 * l2_error(ideal, logits.values));
  return {};
}

void TextFamily::run() {
  auto opened = ModelHarness::open(model_, device_(Arithmetic::f32), 2, {});
  if (!opened.ok()) {
    report_.fail(name_ + "/open", opened.error().message);
    return;
  }
  f32_ = std::move(opened).value();
  using Check = Result<void> (TextFamily::*)();
  for (const Check part : {&TextFamily::trace, &TextFamily::prompts, &TextFamily::decode,
                           &TextFamily::batch, &TextFamily::exact}) {
    const Result<void> done = (this->*part)();
    if (!done.ok()) report_.fail(name_ + "/read", done.error().message);
  }
}

}  // namespace

void run_text_family(const std::string& folder, const std::string& model, const std::string& name,
                     Report& report, const DeviceOf& device) {
  TextFamily(folder, model, name, report, device).run();
}

DeviceOf cpu_device_of() {
  return cpu_factory;
}

}  // namespace nibble::golden
