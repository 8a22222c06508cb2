#include "tests/support/model_harness.h"

#include "formats/bf16.h"
#include "tensor/tensor.h"

#include <algorithm>

namespace nibble::test {
namespace {

using formats::LayerType;

float element(const std::byte* data, DType dtype, int64_t index) {
  if (dtype == DType::f32) return reinterpret_cast<const float*>(data)[index];
  NIBBLE_CHECK(dtype == DType::bf16, "harness reads f32 and bf16 only");
  return formats::bf16_to_f32(reinterpret_cast<const uint16_t*>(data)[index]);
}

}  // namespace

Result<std::unique_ptr<ModelHarness>> ModelHarness::open(const std::string& folder,
                                                         const DeviceFactory& factory, int threads,
                                                         const HarnessOptions& options) {
  auto harness = std::unique_ptr<ModelHarness>(new ModelHarness);
  NIBBLE_ASSIGN_OR_RETURN(auto checkpoint, formats::Checkpoint::open(folder));
  harness->checkpoint_ = std::make_unique<formats::Checkpoint>(std::move(checkpoint));
  NIBBLE_ASSIGN_OR_RETURN(const formats::ModelConfig config, formats::load_model_config(folder));
  NIBBLE_ASSIGN_OR_RETURN(harness->source_,
                          model::CheckpointSource::open(*harness->checkpoint_, config));
  NIBBLE_RETURN_IF_ERROR(harness->load(factory, threads, options));
  return harness;
}

Result<std::unique_ptr<ModelHarness>> ModelHarness::open(
    std::unique_ptr<model::WeightSource> source, const DeviceFactory& factory, int threads,
    const HarnessOptions& options) {
  auto harness = std::unique_ptr<ModelHarness>(new ModelHarness);
  harness->source_ = std::move(source);
  NIBBLE_RETURN_IF_ERROR(harness->load(factory, threads, options));
  return harness;
}

Result<void> ModelHarness::load(const DeviceFactory& factory, int threads,
                                const HarnessOptions& options) {
  pool_ = std::make_unique<ThreadPool>(threads, std::vector<int>());
  device_ = factory(*pool_);
  NIBBLE_RETURN_IF_ERROR(device_->set_workspace(model::workspace_spec(config(), options.max_rows)));
  const auto uninterrupted = [](int, int) { return true; };
  NIBBLE_ASSIGN_OR_RETURN(model_, model::LoadedModel::load(*device_, *source_, uninterrupted));
  return make_caches(options);
}

Result<void> ModelHarness::make_caches(const HarnessOptions& options) {
  const formats::ModelConfig& c = config();
  const int64_t slots = options.max_sequences;
  pages_per_sequence_ = (options.max_tokens + device::kPageTokens - 1) / device::kPageTokens;
  lengths_.assign(static_cast<size_t>(slots), 0);
  const auto take = [this](int64_t bytes) -> Result<std::byte*> {
    NIBBLE_ASSIGN_OR_RETURN(auto memory,
                            device_->allocate(static_cast<size_t>(bytes), "harness cache"));
    cache_memory_.push_back(std::move(memory));
    return cache_memory_.back()->data();
  };
  for (size_t i = 0; i < c.layer_types.size(); ++i) {
    device::LayerCache cache;
    if (c.layer_types[i] == LayerType::full_attention) {
      const int64_t bytes = slots * pages_per_sequence_ * device::kPageTokens *
                            c.num_key_value_heads * c.head_dim *
                            static_cast<int64_t>(dtype_bytes(options.kv_dtype));
      NIBBLE_ASSIGN_OR_RETURN(cache.kv.k, take(bytes));
      NIBBLE_ASSIGN_OR_RETURN(cache.kv.v, take(bytes));
      cache.kv.dtype = options.kv_dtype;
      cache.kv.k_scale = model_->weights().layers[i].k_scale;
      cache.kv.v_scale = model_->weights().layers[i].v_scale;
    } else {
      device::StateLayer& state = cache.state;
      const int64_t channels = 2 * c.linear_num_key_heads * c.linear_key_head_dim +
                               c.linear_num_value_heads * c.linear_value_head_dim;
      state.recurrent_stride =
          c.linear_num_value_heads * c.linear_key_head_dim * c.linear_value_head_dim;
      state.conv_columns = c.linear_conv_kernel_dim - 1;
      state.conv_dtype = device_->activation_dtype();
      state.conv_stride_bytes =
          state.conv_columns * channels * static_cast<int64_t>(dtype_bytes(state.conv_dtype));
      NIBBLE_ASSIGN_OR_RETURN(std::byte * recurrent, take(slots * state.recurrent_stride * 4));
      state.recurrent = reinterpret_cast<float*>(recurrent);
      NIBBLE_ASSIGN_OR_RETURN(state.conv_window, take(slots * state.conv_stride_bytes));
    }
    caches_.push_back(cache);
  }
  return {};
}

void ModelHarness::reserve_step(int32_t rows) {
  if (rows <= step_.rows) return;
  step_.rows = rows;
  const auto allocate = [&](int64_t bytes) {
    auto memory = device_->allocate(static_cast<size_t>(bytes), "harness step");
    NIBBLE_CHECK(memory.ok(), "harness memory", memory.ok() ? "" : memory.error().message);
    step_memory_.push_back(std::move(memory).value());
    return step_memory_.back()->data();
  };
  const int64_t ints = rows * int64_t{sizeof(int32_t)};
  step_.token_ids = allocate(ints);
  step_.positions = allocate(3 * ints);
  step_.row_sequence = allocate(ints);
  step_.sequences = allocate(rows * int64_t{sizeof(device::SequenceStep)});
  step_.page_table = allocate(pages_per_sequence_ * ints);
  step_.logit_rows = allocate(ints);
  step_.hidden = allocate(config().hidden_size * ints);
  step_.logits = allocate(config().vocab_size * ints);
}

std::vector<float> ModelHarness::step(const std::vector<SequenceInput>& inputs,
                                      device::Observer* observer) {
  std::vector<int32_t> tokens, positions, row_sequence, logit_rows;
  std::vector<int32_t> pages;
  std::vector<device::SequenceStep> sequences;
  for (const SequenceInput& input : inputs) {
    const auto count = static_cast<int32_t>(input.tokens.size());
    int32_t& length = lengths_[static_cast<size_t>(input.sequence)];
    sequences.push_back({input.kind, static_cast<int32_t>(tokens.size()), count, length + count,
                         length == 0 ? device::kZeroState : input.sequence, input.sequence});
    for (int32_t i = 0; i < count; ++i) {
      logit_rows.push_back(static_cast<int32_t>(tokens.size()));
      tokens.push_back(input.tokens[static_cast<size_t>(i)]);
      row_sequence.push_back(static_cast<int32_t>(sequences.size()) - 1);
      for (int axis = 0; axis < 3; ++axis) positions.push_back(length + i);
    }
    length += count;
    for (int32_t page = 0; page < pages_per_sequence_; ++page) {
      pages.push_back(input.sequence * pages_per_sequence_ + page);
    }
  }
  reserve_step(static_cast<int32_t>(tokens.size()));
  const auto put = [&](std::byte* to, const auto& values) {
    using Value = std::decay_t<decltype(values[0])>;
    device_->upload(to, std::as_bytes(std::span(values)));
    return reinterpret_cast<const Value*>(to);
  };
  device::StepPlan plan;
  plan.num_rows = static_cast<int32_t>(tokens.size());
  plan.num_sequences = static_cast<int32_t>(sequences.size());
  plan.num_logit_rows = plan.num_rows;
  plan.page_table_stride = pages_per_sequence_;
  for (const device::SequenceStep& s : sequences) plan.num_kv_pages += device::kv_pages(s.kv_len);
  plan.token_ids = put(step_.token_ids, tokens);
  plan.positions = put(step_.positions, positions);
  plan.row_sequence = put(step_.row_sequence, row_sequence);
  plan.sequences = put(step_.sequences, sequences);
  plan.page_table = put(step_.page_table, pages);
  plan.logit_rows = put(step_.logit_rows, logit_rows);
  plan.observer = observer;

  const Shape hidden_shape{plan.num_rows, config().hidden_size};
  const Shape logits_shape{plan.num_rows, config().vocab_size};
  const TensorView hidden(step_.hidden, DType::f32, hidden_shape);
  const TensorView logits(step_.logits, DType::f32, logits_shape);
  model::Decoder decoder(*device_, model::Placement());
  device_->run_step(plan, [&] {
    decoder.forward(plan, model_->weights(), caches_, hidden);
    decoder.head(plan, model_->weights(), hidden, 0, logits);
  });
  std::vector<float> out(static_cast<size_t>(logits_shape.elements()));
  device_->download(std::as_writable_bytes(std::span(out)), logits.data());
  device_->synchronize();
  return out;
}

std::vector<float> ModelHarness::prefill(int32_t sequence, const std::vector<int32_t>& tokens,
                                         int32_t chunk, device::Observer* observer) {
  reset(sequence);
  std::vector<float> logits;
  const size_t step_tokens = chunk == 0 ? tokens.size() : static_cast<size_t>(chunk);
  for (size_t begin = 0; begin < tokens.size(); begin += step_tokens) {
    const size_t end = std::min(tokens.size(), begin + step_tokens);
    const auto at = [&](size_t i) { return tokens.begin() + static_cast<std::ptrdiff_t>(i); };
    const std::vector<float> part = step({{sequence, {at(begin), at(end)}}}, observer);
    logits.insert(logits.end(), part.begin(), part.end());
  }
  return logits;
}

std::vector<float> ModelHarness::recurrent_state(int layer, int32_t sequence) const {
  const device::StateLayer& state = caches_[static_cast<size_t>(layer)].state;
  const float* data = state.recurrent + sequence * state.recurrent_stride;
  return read(reinterpret_cast<const std::byte*>(data), DType::f32, state.recurrent_stride);
}

std::vector<float> ModelHarness::conv_state(int layer, int32_t sequence) const {
  const device::StateLayer& state = caches_[static_cast<size_t>(layer)].state;
  const std::byte* data = state.conv_window + sequence * state.conv_stride_bytes;
  const auto count = state.conv_stride_bytes / static_cast<int64_t>(dtype_bytes(state.conv_dtype));
  return read(data, state.conv_dtype, count);
}

std::vector<float> ModelHarness::kv_tail(int layer, int32_t sequence, int32_t count,
                                         bool value) const {
  const device::KvLayer& kv = caches_[static_cast<size_t>(layer)].kv;
  const std::byte* data = value ? kv.v : kv.k;
  const int64_t heads = config().num_key_value_heads;
  const int64_t dim = config().head_dim;
  const int64_t row_bytes = dim * static_cast<int64_t>(dtype_bytes(kv.dtype));
  std::vector<float> out;
  for (int64_t token = length(sequence) - count; token < length(sequence); ++token) {
    const int64_t page = sequence * pages_per_sequence_ + token / device::kPageTokens;
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t row = (page * heads + head) * device::kPageTokens + token % device::kPageTokens;
      const std::vector<float> part = read(data + row * row_bytes, kv.dtype, dim);
      out.insert(out.end(), part.begin(), part.end());
    }
  }
  return out;
}

std::vector<float> ModelHarness::read(const std::byte* data, DType dtype, int64_t count) const {
  std::vector<std::byte> host(static_cast<size_t>(count) * dtype_bytes(dtype));
  device_->download(host, data);
  device_->synchronize();
  std::vector<float> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(element(host.data(), dtype, i));
  return out;
}

}  // namespace nibble::test
