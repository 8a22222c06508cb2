// Text only so far: the three rotary positions of a row are equal to its index in the sequence.
#include "runtime/step_builder.h"

namespace nibble::runtime {

namespace {

void append_rows(const ScheduledSequence& part, Step& step) {
  const std::vector<int32_t>& tokens = part.sequence->tokens;
  for (int32_t i = part.first_token; i < part.first_token + part.num_tokens; ++i) {
    step.token_ids.push_back(tokens[static_cast<size_t>(i)]);
    step.positions.insert(step.positions.end(), 3, i);
  }
}

void append_sequence(const ScheduledSequence& part, Step& step) {
  const Sequence& sequence = *part.sequence;
  device::SequenceStep entry;
  entry.kind = part.is_prefill ? device::SequenceKind::prefill : device::SequenceKind::decode;
  entry.first_row = static_cast<int32_t>(step.token_ids.size());
  entry.q_len = part.num_tokens;
  entry.kv_len = part.first_token + part.num_tokens;
  entry.state_read_slot = sequence.slot.read_slot();
  entry.state_write_slot = sequence.slot.write_slot();
  step.sequences.push_back(entry);
  const auto pages = static_cast<size_t>(pages_for_tokens(entry.kv_len));
  step.pages.push_back(std::span<const int32_t>(sequence.pages).first(pages));
}

}  // namespace

Step make_step(const StepCapacity& capacity) {
  Step step;
  const auto rows = static_cast<size_t>(capacity.rows);
  const auto sequences = static_cast<size_t>(capacity.sequences);
  step.token_ids.reserve(rows);
  step.positions.reserve(rows * 3);
  step.sequences.reserve(sequences);
  step.pages.reserve(sequences);
  step.logit_rows.reserve(static_cast<size_t>(capacity.logit_rows));
  step.state_saves.reserve(static_cast<size_t>(capacity.state_saves));
  step.samples.reserve(static_cast<size_t>(capacity.logit_rows));
  return step;
}

void build_step(std::span<const ScheduledSequence> parts, Step& step) {
  step.token_ids.clear();
  step.positions.clear();
  step.sequences.clear();
  step.pages.clear();
  step.logit_rows.clear();
  step.state_saves.clear();
  step.samples.clear();
  for (const ScheduledSequence& part : parts) {
    append_sequence(part, step);
    append_rows(part, step);
    if (!part.wants_token) continue;
    const auto logits_row = static_cast<int32_t>(step.logit_rows.size());
    step.logit_rows.push_back(static_cast<int32_t>(step.token_ids.size()) - 1);
    step.samples.push_back(part.sequence->sampling.row(logits_row));
  }
}

}  // namespace nibble::runtime
