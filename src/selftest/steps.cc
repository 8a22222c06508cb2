#include "selftest/steps.h"

#include <algorithm>

namespace nibble::selftest {
namespace {

constexpr auto kPrefill = device::SequenceKind::prefill;
constexpr auto kDecode = device::SequenceKind::decode;

/// `count` sequences that decode one token each, at depths from nothing to 10 pages.
StepCase decode_of(int32_t count) {
  StepCase out{"decode of " + std::to_string(count), {}, {}};
  for (int32_t s = 0; s < count; ++s) {
    const int32_t kv_len = 1 + s * 97 % 640;
    out.sequences.push_back({kDecode, s, 1, kv_len, kv_len == 1 ? device::kZeroState : s, s});
  }
  return out;
}

}  // namespace

std::vector<StepCase> step_cases() {
  return {
      {"decode of 1", {{kDecode, 0, 1, 300, 2, 2}}, {}},
      {"first token", {{kDecode, 0, 1, 1, device::kZeroState, 3}}, {}},
      {"decode of 4, a save",
       {{kDecode, 0, 1, 1, device::kZeroState, 1},
        {kDecode, 1, 1, 64, 2, 3},
        {kDecode, 2, 1, 65, 4, 4},
        {kDecode, 3, 1, 640, 5, 5}},
       {{1, 64, 9}}},
      decode_of(3),
      decode_of(12),
      decode_of(32),
      {"prefill of 3, saves",
       {{kPrefill, 0, 130, 130, device::kZeroState, 1},
        {kPrefill, 130, 64, 192, 2, 2},
        {kPrefill, 194, 5, 69, 3, 4}},
       {{0, 64, 8}, {0, 128, 9}, {1, 192, 10}}},
      {"prefill of 4 behind long contexts",
       {{kPrefill, 0, 64, 640, 1, 1},
        {kPrefill, 64, 33, 609, 2, 2},
        {kPrefill, 97, 100, 600, 3, 3},
        {kPrefill, 197, 17, 529, 4, 4}},
       {}},
      {"both in one step",
       {{kDecode, 0, 1, 100, 1, 1}, {kPrefill, 1, 33, 97, 2, 3}, {kPrefill, 34, 200, 264, 5, 6}},
       {}}};
}

int32_t rows_of(const StepCase& c) {
  int32_t rows = 0;
  for (const device::SequenceStep& step : c.sequences) rows += step.q_len;
  return rows;
}

int64_t cached_tokens(const StepCase& c) {
  return static_cast<int64_t>(c.sequences.size()) * kPagesPerSequence * device::kPageTokens;
}

device::StepPlan plan_of(int64_t rows, int64_t sequences) {
  device::StepPlan plan;
  plan.num_rows = static_cast<int32_t>(rows);
  plan.num_sequences = static_cast<int32_t>(sequences);
  return plan;
}

device::StepPlan make_plan(const StepCase& c, Buffers& buffers) {
  std::vector<int32_t> row_sequence, pages, positions, tokens, logit_rows;
  const auto sequences = static_cast<int32_t>(c.sequences.size());
  int32_t num_kv_pages = 0;
  for (int32_t s = 0; s < sequences; ++s) {
    const device::SequenceStep& step = c.sequences[static_cast<size_t>(s)];
    for (int32_t i = 0; i < step.q_len; ++i) {
      tokens.push_back((s * 331 + i * 17) % 4096);
      row_sequence.push_back(s);
      for (int axis = 0; axis < 3; ++axis) {
        positions.push_back(step.kv_len - step.q_len + i + 5 * axis);
      }
    }
    logit_rows.push_back(step.first_row + step.q_len - 1);
    num_kv_pages += device::kv_pages(step.kv_len);
    for (int32_t p = 0; p < kPagesPerSequence; ++p) {
      pages.push_back((p * sequences + s) * 7 % (sequences * kPagesPerSequence));
    }
  }
  // The stride 7 must not share a factor with the number of pages, or pages would be shared.
  NIBBLE_CHECK(sequences * kPagesPerSequence % 7 != 0, "pages", sequences);
  device::StepPlan plan;
  plan.num_rows = static_cast<int32_t>(row_sequence.size());
  plan.num_sequences = sequences;
  plan.num_logit_rows = sequences;
  plan.num_state_saves = static_cast<int32_t>(c.saves.size());
  plan.page_table_stride = kPagesPerSequence;
  plan.num_kv_pages = num_kv_pages;
  plan.token_ids = buffers.put(tokens);
  plan.positions = buffers.put(positions);
  plan.row_sequence = buffers.put(row_sequence);
  plan.sequences = buffers.put(c.sequences);
  plan.page_table = buffers.put(pages);
  plan.logit_rows = buffers.put(logit_rows);
  plan.state_saves = buffers.put(c.saves);
  return plan;
}

KvValues::KvValues(DType dtype, int64_t tokens, int64_t row_elements, Rng& rng)
    : dtype_(dtype), elements_(tokens * row_elements) {
  for (size_t side = 0; side < 2; ++side) {
    if (dtype == DType::f8_e4m3) {
      codes_[side].resize(static_cast<size_t>(elements_));
      for (uint8_t& code : codes_[side]) code = static_cast<uint8_t>(rng.bits() & 0xBF);
    } else {
      values_[side] = random_values(elements_, 1.0f, rng);
    }
  }
}

device::KvLayer KvValues::put(Buffers& buffers) const {
  device::KvLayer out;
  out.dtype = dtype_;
  out.k_scale = 0.03f, out.v_scale = 0.02f;
  std::byte** sides[] = {&out.k, &out.v};
  for (size_t side = 0; side < 2; ++side) {
    *sides[side] = dtype_ == DType::f8_e4m3
                       ? reinterpret_cast<std::byte*>(buffers.put(codes_[side]))
                       : buffers.tensor(dtype_, {elements_}, values_[side]).data();
  }
  return out;
}

TensorView KvValues::keys(const device::KvLayer& layer) const {
  return {layer.k, dtype_, {elements_}};
}

StateValues::StateValues(int64_t state, int64_t of_window, Rng& rng)
    : state_elements(state),
      window_elements(of_window),
      recurrent(random_values(kSlots * state, 0.1f, rng)),
      window(random_values(kSlots * of_window, 1.0f, rng)) {}

States put_states(const StateValues& values, int64_t columns, DType activation, Buffers& buffers) {
  States out;
  out.recurrent = buffers.tensor(DType::f32, {kSlots, values.state_elements}, values.recurrent);
  out.window = buffers.tensor(activation, {kSlots, values.window_elements}, values.window);
  device::StateLayer& layer = out.layer;
  layer.recurrent = out.recurrent.as<float>();
  layer.recurrent_stride = values.state_elements;
  layer.conv_window = out.window.data();
  layer.conv_columns = columns;
  layer.conv_stride_bytes = values.window_elements * static_cast<int64_t>(dtype_bytes(activation));
  layer.conv_dtype = activation;
  return out;
}

}  // namespace nibble::selftest
