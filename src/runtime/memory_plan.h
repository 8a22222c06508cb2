// The memory plan: from sizes known before loading and a hard ceiling to pages, sequences and
// context.
//
// Everything we allocate is in it; mapped weight files are not ours and are shown apart by the
// caller. Nothing grows after start-up (design: memory plan before loading). Pure functions.
#pragma once

#include "base/result.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace nibble::runtime {

/// Sizes that follow from the model, the device and the largest step.
struct MemoryNeeds {
  size_t weight_bytes = 0;  // repacked weights that we allocate
  size_t workspace_bytes = 0;  // activations, step buffers, sampler scratch
  size_t kv_page_bytes = 0;  // one page in all full-attention layers; 0 if there are none
  size_t state_slot_bytes = 0;  // one slot in all DeltaNet layers; 0 if there are none
  int64_t logits_rows = 0;
  int64_t vocab_size = 0;
  int32_t model_max_len = 0;  // max_position_embeddings
};

struct MemoryWishes {
  size_t ceiling_bytes = 0;
  std::string ceiling_source;  // "--memory", "available memory less a tenth"
  int32_t max_num_seqs = 0;  // > 0
  int32_t max_model_len = 0;  // 0: as the model and the memory allow
};

struct MemoryPlan {
  int32_t num_pages = 0;
  int32_t max_num_seqs = 0;
  int32_t max_model_len = 0;
  size_t total_bytes = 0;  // <= the ceiling
  std::string table;  // one line per item, then total and ceiling
  std::vector<std::string> adjusted;  // "adjusted: <what> <from> -> <to> because <why>"
};

/// Keeps one sequence of max_model_len able to finish. What does not fit is lowered and said so: a
/// context that was asked for goes before further sequences; a context left to us shares with them
/// (slots take half at most). Errors: invalid_argument (a wish out of range), exhausted if not even
/// one sequence of 64 tokens fits; that message shows the sum line by line.
Result<MemoryPlan> plan_memory(const MemoryNeeds& needs, const MemoryWishes& wishes);

}  // namespace nibble::runtime
