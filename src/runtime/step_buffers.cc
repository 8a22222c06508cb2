// One block of device memory, cut at 64-byte boundaries: once for small steps, whose arrays lie
// close together and travel in one upload, and once for steps of any size.
#include "runtime/step_buffers.h"

#include "base/check.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

namespace nibble::runtime {

namespace {

constexpr int32_t kSmall = 64;

/// Steps that are small in everything but their page tables.
StepCapacity small_capacity(const StepCapacity& capacity) {
  StepCapacity small = capacity;
  small.rows = std::min(capacity.rows, kSmall);
  small.sequences = std::min(capacity.sequences, kSmall);
  small.logit_rows = std::min(capacity.logit_rows, kSmall);
  small.state_saves = std::min(capacity.state_saves, kSmall);
  return small;
}

}  // namespace

StepBuffers::Layout StepBuffers::layout_of(const StepCapacity& capacity, size_t begin) {
  Layout layout;
  layout.end = begin;
  const auto take = [&layout](int64_t count, size_t element_bytes) {
    const size_t offset = layout.end;
    layout.end += (static_cast<size_t>(count) * element_bytes + 63) / 64 * 64;
    return offset;
  };
  layout.token_ids = take(capacity.rows, sizeof(int32_t));
  layout.positions = take(int64_t{3} * capacity.rows, sizeof(int32_t));
  layout.row_sequence = take(capacity.rows, sizeof(int32_t));
  layout.sequences = take(capacity.sequences, sizeof(device::SequenceStep));
  layout.logit_rows = take(capacity.logit_rows, sizeof(int32_t));
  layout.state_saves = take(capacity.state_saves, sizeof(device::StateSave));
  layout.page_table =
      take(int64_t{capacity.sequences} * capacity.pages_per_sequence, sizeof(int32_t));
  return layout;
}

size_t StepBuffers::device_bytes(const StepCapacity& capacity) {
  return layout_of(capacity, layout_of(small_capacity(capacity), 0).end).end;
}

Result<std::unique_ptr<StepBuffers>> StepBuffers::create(device::Device& device,
                                                         const StepCapacity& capacity) {
  NIBBLE_ASSIGN_OR_RETURN(auto memory, device.allocate(device_bytes(capacity), "step buffers"));
  return std::unique_ptr<StepBuffers>(new StepBuffers(device, capacity, std::move(memory)));
}

StepBuffers::StepBuffers(device::Device& device, const StepCapacity& capacity,
                         std::unique_ptr<device::Memory> memory)
    : device_(device),
      capacity_(capacity),
      small_(layout_of(small_capacity(capacity), 0)),
      large_(layout_of(capacity, small_.end)),
      memory_(std::move(memory)),
      staged_(small_.end),
      row_sequence_(static_cast<size_t>(capacity.rows)),
      page_table_(static_cast<size_t>(capacity.sequences) *
                  static_cast<size_t>(capacity.pages_per_sequence)),
      samples_(static_cast<size_t>(capacity.logit_rows)) {
  plan_.page_table_stride = capacity.pages_per_sequence;
}

const device::StepPlan& StepBuffers::load(const Step& step) {
  check_fits(step);
  fill_row_sequence(step);
  fill_page_table(step);
  const size_t rows = step.token_ids.size(), sequences = step.sequences.size();
  const bool is_small = std::max({rows, sequences, step.logit_rows.size(),
                                  step.state_saves.size()}) <= static_cast<size_t>(kSmall);
  const Layout& layout = is_small ? small_ : large_;
  refer_to(layout);
  plan_.num_rows = static_cast<int32_t>(rows);
  plan_.num_sequences = static_cast<int32_t>(sequences);
  plan_.num_logit_rows = static_cast<int32_t>(step.logit_rows.size());
  plan_.num_state_saves = static_cast<int32_t>(step.state_saves.size());
  plan_.num_kv_pages = 0;
  for (const device::SequenceStep& s : step.sequences) {
    plan_.num_kv_pages += device::kv_pages(s.kv_len);
  }
  const size_t page_bytes =
      sequences * static_cast<size_t>(capacity_.pages_per_sequence) * sizeof(int32_t);
  const auto put = [&](size_t offset, const void* host, size_t bytes) {
    if (bytes == 0) return;
    if (is_small) {
      std::memcpy(staged_.data() + offset, host, bytes);
    } else {
      device_.upload(memory_->data() + offset, {static_cast<const std::byte*>(host), bytes});
    }
  };
  put(layout.token_ids, step.token_ids.data(), rows * sizeof(int32_t));
  put(layout.positions, step.positions.data(), rows * 3 * sizeof(int32_t));
  put(layout.row_sequence, row_sequence_.data(), rows * sizeof(int32_t));
  put(layout.sequences, step.sequences.data(), sequences * sizeof(device::SequenceStep));
  put(layout.logit_rows, step.logit_rows.data(), step.logit_rows.size() * sizeof(int32_t));
  put(layout.state_saves, step.state_saves.data(),
      step.state_saves.size() * sizeof(device::StateSave));
  put(layout.page_table, page_table_.data(), page_bytes);
  if (is_small) {
    device_.upload(memory_->data(), std::span(staged_).first(layout.page_table + page_bytes));
  }
  std::copy(step.samples.begin(), step.samples.end(), samples_.begin());
  num_samples_ = static_cast<int32_t>(step.samples.size());
  return plan_;
}

void StepBuffers::refer_to(const Layout& layout) {
  std::byte* base = memory_->data();
  plan_.token_ids = reinterpret_cast<const int32_t*>(base + layout.token_ids);
  plan_.positions = reinterpret_cast<const int32_t*>(base + layout.positions);
  plan_.row_sequence = reinterpret_cast<const int32_t*>(base + layout.row_sequence);
  plan_.sequences = reinterpret_cast<const device::SequenceStep*>(base + layout.sequences);
  plan_.page_table = reinterpret_cast<const int32_t*>(base + layout.page_table);
  plan_.logit_rows = reinterpret_cast<const int32_t*>(base + layout.logit_rows);
  plan_.state_saves = reinterpret_cast<const device::StateSave*>(base + layout.state_saves);
}

device::SamplePlan StepBuffers::sample_plan(int32_t vocab_limit) const {
  device::SamplePlan plan;
  plan.num_rows = num_samples_;
  plan.rows = samples_.data();
  plan.vocab_limit = vocab_limit;
  return plan;
}

void StepBuffers::check_fits(const Step& step) const {
  const auto within = [](size_t count, int32_t capacity) {
    return count <= static_cast<size_t>(capacity);
  };
  NIBBLE_CHECK(!step.token_ids.empty() && within(step.token_ids.size(), capacity_.rows),
               "rows of the step", step.token_ids.size(), capacity_.rows);
  NIBBLE_CHECK(step.positions.size() == 3 * step.token_ids.size(), "three positions per row",
               step.positions.size(), step.token_ids.size());
  NIBBLE_CHECK(within(step.sequences.size(), capacity_.sequences) &&
                   step.pages.size() == step.sequences.size(),
               "sequences of the step", step.sequences.size(), step.pages.size(),
               capacity_.sequences);
  NIBBLE_CHECK(within(step.logit_rows.size(), capacity_.logit_rows) &&
                   within(step.samples.size(), capacity_.logit_rows),
               "logit rows of the step", step.logit_rows.size(), step.samples.size(),
               capacity_.logit_rows);
  NIBBLE_CHECK(within(step.state_saves.size(), capacity_.state_saves), "state saves of the step",
               step.state_saves.size(), capacity_.state_saves);
}

void StepBuffers::fill_row_sequence(const Step& step) {
  size_t row = 0;
  for (size_t s = 0; s < step.sequences.size(); ++s) {
    const device::SequenceStep& sequence = step.sequences[s];
    NIBBLE_CHECK(static_cast<size_t>(sequence.first_row) == row && sequence.q_len >= 1,
                 "sequences must lie one behind the other", s, sequence.first_row, row);
    const size_t end = row + static_cast<size_t>(sequence.q_len);
    NIBBLE_CHECK(end <= step.token_ids.size(), "rows of a sequence", s, end);
    for (; row < end; ++row) row_sequence_[row] = static_cast<int32_t>(s);
  }
  NIBBLE_CHECK(row == step.token_ids.size(), "rows of no sequence", row, step.token_ids.size());
}

void StepBuffers::fill_page_table(const Step& step) {
  const auto stride = static_cast<size_t>(capacity_.pages_per_sequence);
  for (size_t s = 0; s < step.pages.size(); ++s) {
    const std::span<const int32_t> pages = step.pages[s];
    NIBBLE_CHECK(pages.size() <= stride, "pages of a sequence", s, pages.size(), stride);
    std::copy(pages.begin(), pages.end(),
              page_table_.begin() + static_cast<std::ptrdiff_t>(s * stride));
  }
}

}  // namespace nibble::runtime
