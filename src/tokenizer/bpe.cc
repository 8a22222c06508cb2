// The pair table is one flat array: a miss costs one cache line, and most lookups are misses.
#include "tokenizer/bpe.h"

#include "base/check.h"

#include <algorithm>
#include <bit>

namespace nibble::tokenizer {
namespace {

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Orders the heap so that its top is the lowest rank, leftmost first.
struct Later {
  template <typename Candidate>
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  }
};

}  // namespace

Bpe::Bpe(const std::array<int32_t, 256>& byte_ids, size_t expected_merges) : byte_ids_(byte_ids) {
  slots_.resize(std::bit_ceil(expected_merges * 2 + 2));
  shift_ = 64U - static_cast<uint32_t>(std::countr_zero(slots_.size()));
}

size_t Bpe::slot_of(uint64_t pair) const {
  // Fibonacci hashing: the high bits of the product depend on all bits of the pair.
  const size_t mask = slots_.size() - 1;
  size_t slot = static_cast<size_t>((pair * 0x9E3779B97F4A7C15ULL) >> shift_);
  while (slots_[slot].rank != kNoRank && slots_[slot].pair != pair) slot = (slot + 1) & mask;
  return slot;
}

bool Bpe::add_merge(const Merge& merge) {
  NIBBLE_CHECK(merges_ < slots_.size() / 2, "more merges than announced", merges_, slots_.size());
  const uint64_t pair = pair_key(merge.left, merge.right);
  Slot& slot = slots_[slot_of(pair)];
  if (slot.rank != kNoRank) return false;
  slot = Slot{pair, merges_++, merge.result};
  return true;
}

Bpe::Found Bpe::find(int32_t left, int32_t right) const {
  const Slot& slot = slots_[slot_of(pair_key(left, right))];
  return {slot.rank, slot.result};
}

void Bpe::encode(std::string_view piece, BpeScratch& scratch, std::vector<int32_t>& out) const {
  if (piece.size() <= kLongestScan) {
    encode_scanning(piece, out);
  } else {
    encode_with_heap(piece, scratch, out);
  }
}

void Bpe::encode_scanning(std::string_view piece, std::vector<int32_t>& out) const {
  int32_t ids[kLongestScan];
  Found pairs[kLongestScan];  // pairs[i]: ids[i] with ids[i + 1]
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i) ids[i] = byte_ids_[static_cast<uint8_t>(piece[i])];
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = find(ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNoRank) break;
    ids[best] = pairs[best].result;
    for (size_t i = best + 1; i + 1 < count; ++i) {
      ids[i] = ids[i + 1];
      pairs[i - 1] = pairs[i];
    }
    --count;
    if (best > 0) pairs[best - 1] = find(ids[best - 1], ids[best]);
    if (best + 1 < count) pairs[best] = find(ids[best], ids[best + 1]);
  }
  out.insert(out.end(), ids, ids + count);
}

// Looks up the pair that starts at `position` and queues it when it can merge.
void Bpe::push_pair(BpeScratch& scratch, int32_t position) const {
  auto& symbol = scratch.symbols_[static_cast<size_t>(position)];
  symbol.pair_rank = kNoRank;
  if (symbol.next < 0) return;
  const Found found = find(symbol.id, scratch.symbols_[static_cast<size_t>(symbol.next)].id);
  symbol.pair_rank = found.rank;
  symbol.pair_result = found.result;
  if (found.rank == kNoRank) return;
  scratch.heap_.push_back({found.rank, position});
  std::push_heap(scratch.heap_.begin(), scratch.heap_.end(), Later{});
}

void Bpe::encode_with_heap(std::string_view piece, BpeScratch& scratch,
                           std::vector<int32_t>& out) const {
  auto& symbols = scratch.symbols_;
  auto& heap = scratch.heap_;
  const auto count = static_cast<int32_t>(piece.size());
  symbols.clear();
  heap.clear();
  for (int32_t i = 0; i < count; ++i) {
    symbols.push_back({byte_ids_[static_cast<uint8_t>(piece[static_cast<size_t>(i)])], i - 1,
                       i + 1 < count ? i + 1 : -1, kNoRank, 0});
  }
  for (int32_t i = 0; i < count; ++i) push_pair(scratch, i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), Later{});
    const auto top = heap.back();
    heap.pop_back();
    // A rank names one pair, so an entry is stale exactly when the rank at its place has changed.
    auto& symbol = symbols[static_cast<size_t>(top.position)];
    if (symbol.pair_rank != top.rank) continue;
    auto& eaten = symbols[static_cast<size_t>(symbol.next)];
    eaten.pair_rank = kNoRank;
    symbol.id = symbol.pair_result;
    symbol.next = eaten.next;
    if (symbol.next >= 0) symbols[static_cast<size_t>(symbol.next)].previous = top.position;
    push_pair(scratch, top.position);
    if (symbol.previous >= 0) push_pair(scratch, symbol.previous);
  }
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    out.push_back(symbols[static_cast<size_t>(i)].id);
  }
}

}  // namespace nibble::tokenizer
