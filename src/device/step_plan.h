// StepPlan: one packed batch of rows from many sequences, as the kernels of a step see it.
//
// Built once per step by runtime/ from a Step; every pointer is a device buffer at a fixed address,
// sized at start-up for the largest step, so a captured graph can be replayed with new contents. No
// padding: row r belongs to sequence row_sequence[r], sequences lie one behind the other. A prefill
// chunk ends at a multiple of 64 tokens counted from the start of its sequence, except the last
// chunk of a prompt.
#pragma once

#include "tensor/tensor_view.h"

#include <cstdint>

namespace nibble::device {

class Observer;

/// Tokens of one KV page, and the grid on which prefill chunks end and states are saved.
inline constexpr int32_t kPageTokens = 64;

/// State slot that stands for "the sequence starts here": all zeros, never written.
inline constexpr int32_t kZeroState = -1;

enum class SequenceKind : int32_t { prefill, decode, verify };

/// One sequence's part of a step. Plain data, read by kernels.
struct SequenceStep {
  SequenceKind kind;
  int32_t first_row;  // its rows are [first_row, first_row + q_len)
  int32_t q_len;  // tokens computed in this step, >= 1
  int32_t kv_len;  // KV rows of the sequence once this step's rows are stored
  int32_t state_read_slot;  // state before its first row, or kZeroState
  int32_t state_write_slot;  // receives the state after its last row; may equal the read slot
};

/// Asks for a copy of one sequence's state where it reaches a multiple of 64 tokens within this
/// step.
struct StateSave {
  int32_t sequence;  // index into sequences
  int32_t num_tokens;  // a multiple of 64, in (kv_len - q_len, kv_len]
  int32_t slot;  // receives recurrent state and convolution window
};

/// Pages that hold `kv_len` rows.
constexpr int32_t kv_pages(int32_t kv_len) {
  return (kv_len + kPageTokens - 1) / kPageTokens;
}

struct StepPlan {
  int32_t num_rows = 0;
  int32_t num_sequences = 0;
  int32_t num_logit_rows = 0;
  int32_t num_state_saves = 0;
  int32_t page_table_stride = 0;  // pages per sequence in page_table
  int32_t num_kv_pages = 0;  // that hold the sequences' kv_len rows, summed over the sequences

  const int32_t* token_ids = nullptr;  // [rows]
  const int32_t* positions = nullptr;  // [rows][3]: T, H, W rotary positions; not the KV index
  const int32_t* row_sequence = nullptr;  // [rows]
  const SequenceStep* sequences = nullptr;  // [sequences]
  const int32_t* page_table =
      nullptr;  // [sequences][page_table_stride]: page of KV rows 64i .. 64i+63
  const int32_t* logit_rows = nullptr;  // [logit_rows] rows whose logits are wanted, ascending
  const StateSave* state_saves = nullptr;  // [state_saves]

  /// Rows of `row_overrides` replace embedding rows: override_index[r] >= 0 names the row (vision).
  /// May be null.
  const int32_t* override_index = nullptr;
  ConstTensorView row_overrides;

  /// If not null, receives each layer's routing: [layers][rows][num_experts_per_tok].
  int32_t* routing_log = nullptr;

  /// If not null, the composed path runs and reports its intermediate tensors (device/observer.h).
  Observer* observer = nullptr;
};

}  // namespace nibble::device
