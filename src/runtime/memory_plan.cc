// All sizes in bytes; products of counts that came from files are checked for overflow.
#include "runtime/memory_plan.h"

#include "base/sizes.h"
#include "runtime/kv_pages.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace nibble::runtime {

namespace {

struct Item {
  std::string name;
  size_t bytes;
};

/// Saturates: a sum that overflows is above every ceiling.
size_t product(size_t a, size_t b) {
  size_t result = 0;
  return __builtin_mul_overflow(a, b, &result) ? std::numeric_limits<size_t>::max() : result;
}

size_t sum(size_t a, size_t b) {
  size_t result = 0;
  return __builtin_add_overflow(a, b, &result) ? std::numeric_limits<size_t>::max() : result;
}

std::string text_of(size_t bytes) {
  constexpr size_t kLargest = std::numeric_limits<int64_t>::max();
  return format_bytes(static_cast<int64_t>(std::min(bytes, kLargest)));
}

size_t total_of(const std::vector<Item>& items) {
  size_t total = 0;
  for (const Item& item : items) total = sum(total, item.bytes);
  return total;
}

/// The share that no choice changes.
std::vector<Item> fixed_items(const MemoryNeeds& needs) {
  const size_t logits = product(
      product(static_cast<size_t>(needs.logits_rows), static_cast<size_t>(needs.vocab_size)),
      sizeof(float));
  return {{"weights", needs.weight_bytes},
          {"workspace", needs.workspace_bytes},
          {fmt::format("logits ({} x {} x 4)", needs.logits_rows, needs.vocab_size), logits}};
}

void append_caches(std::vector<Item>& items, const MemoryNeeds& needs, int32_t slots,
                   int32_t pages) {
  items.push_back({fmt::format("state slots ({} x {})", slots, text_of(needs.state_slot_bytes)),
                   product(static_cast<size_t>(slots), needs.state_slot_bytes)});
  items.push_back(
      {fmt::format("KV pages ({} x {}, 64 tokens each)", pages, text_of(needs.kv_page_bytes)),
       product(static_cast<size_t>(pages), needs.kv_page_bytes)});
}

std::string table_of(const std::vector<Item>& items, const MemoryWishes& wishes) {
  std::string table;
  for (const Item& item : items) {
    table += fmt::format("  {:<48}{:>12}\n", item.name, text_of(item.bytes));
  }
  table += fmt::format("  {:<48}{:>12}\n", "total", text_of(total_of(items)));
  table += fmt::format("  {:<48}{:>12}\n", fmt::format("ceiling ({})", wishes.ceiling_source),
                       text_of(wishes.ceiling_bytes));
  return table;
}

Error refusal(const MemoryNeeds& needs, const MemoryWishes& wishes) {
  std::vector<Item> items = fixed_items(needs);
  append_caches(items, needs, 1, 1);
  const size_t missing = total_of(items) - wishes.ceiling_bytes;
  return Error{ErrorCode::exhausted,
               fmt::format("not enough memory for one sequence of 64 tokens:\n{}  {:<48}{:>12}",
                           table_of(items, wishes), "missing", text_of(missing))};
}

/// How many of `bytes` each fit, at most `wanted`; a size of 0 needs no memory.
int32_t count_that_fits(size_t available, size_t bytes, int64_t wanted) {
  if (bytes == 0) return static_cast<int32_t>(wanted);
  return static_cast<int32_t>(
      std::min<size_t>(available / bytes, static_cast<size_t>(std::max<int64_t>(wanted, 0))));
}

/// The choice itself: fills num_pages, max_num_seqs, max_model_len from the bytes left for caches.
void choose_counts(const MemoryNeeds& needs, const MemoryWishes& wishes, size_t left,
                   MemoryPlan& plan) {
  const bool asked_for_context = wishes.max_model_len > 0;
  plan.max_model_len = asked_for_context ? wishes.max_model_len : needs.model_max_len;
  const int32_t context_pages = pages_for_tokens(plan.max_model_len);
  const size_t context_bytes = product(static_cast<size_t>(context_pages), needs.kv_page_bytes);

  size_t for_slots = left - std::min(left, context_bytes);
  if (!asked_for_context) for_slots = std::max(for_slots, left / 2);
  plan.max_num_seqs =
      std::max(1, count_that_fits(for_slots, needs.state_slot_bytes, wishes.max_num_seqs));
  const size_t slot_bytes = product(static_cast<size_t>(plan.max_num_seqs), needs.state_slot_bytes);

  const int64_t useful_pages =
      std::min<int64_t>(int64_t{plan.max_num_seqs} * context_pages, 1 << 30);
  plan.num_pages = count_that_fits(left - slot_bytes, needs.kv_page_bytes, useful_pages);
  plan.max_model_len = static_cast<int32_t>(
      std::min<int64_t>(plan.max_model_len, int64_t{plan.num_pages} * device::kPageTokens));
}

void note_adjustments(const MemoryNeeds& needs, const MemoryWishes& wishes, MemoryPlan& plan) {
  if (plan.max_num_seqs < wishes.max_num_seqs) {
    plan.adjusted.push_back(fmt::format(
        "adjusted: max_num_seqs {} -> {} because a state slot of {} each and the KV pages do not "
        "fit the ceiling of {} ({})",
        wishes.max_num_seqs, plan.max_num_seqs, text_of(needs.state_slot_bytes),
        text_of(wishes.ceiling_bytes), wishes.ceiling_source));
  }
  const int32_t wanted = wishes.max_model_len > 0 ? wishes.max_model_len : needs.model_max_len;
  if (plan.max_model_len < wanted) {
    plan.adjusted.push_back(fmt::format(
        "adjusted: max_model_len {} -> {} because the ceiling of {} ({}) leaves {} KV pages of {}",
        wanted, plan.max_model_len, text_of(wishes.ceiling_bytes), wishes.ceiling_source,
        plan.num_pages, text_of(needs.kv_page_bytes)));
  }
}

}  // namespace

Result<MemoryPlan> plan_memory(const MemoryNeeds& needs, const MemoryWishes& wishes) {
  if (wishes.max_num_seqs < 1) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("max_num_seqs: {}, expected 1 or more", wishes.max_num_seqs)};
  }
  if (wishes.max_model_len != 0 &&
      (wishes.max_model_len < 2 || wishes.max_model_len > needs.model_max_len)) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("max_model_len: {}, expected 2 to {} (max_position_embeddings)",
                             wishes.max_model_len, needs.model_max_len)};
  }
  std::vector<Item> items = fixed_items(needs);
  const size_t fixed = total_of(items);
  const size_t least = sum(fixed, sum(needs.kv_page_bytes, needs.state_slot_bytes));
  if (least > wishes.ceiling_bytes) return refusal(needs, wishes);

  MemoryPlan plan;
  choose_counts(needs, wishes, wishes.ceiling_bytes - fixed, plan);
  append_caches(items, needs, plan.max_num_seqs, plan.num_pages);
  plan.total_bytes = total_of(items);
  plan.table = table_of(items, wishes);
  note_adjustments(needs, wishes, plan);
  return plan;
}

}  // namespace nibble::runtime
