// Byte-pair encoding of one piece: starts from its bytes, joins the neighbouring pair of lowest
// rank (leftmost first) until no pair has a rank.
//
// Short pieces are scanned, long ones use a heap, so the time is O(n log n) for any piece; both
// give the same ids. Knows token ids only, never text.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace nibble::tokenizer {

/// left + right become result; the rank is the place in the list.
struct Merge {
  int32_t left;
  int32_t right;
  int32_t result;
};

/// Buffers of the encoder, reused from piece to piece. One per thread at a time.
class BpeScratch {
 private:
  friend class Bpe;

  struct Symbol {
    int32_t id;
    int32_t previous;  // -1 at the start
    int32_t next;  // -1 at the end
    uint32_t pair_rank;  // of this symbol and the next
    int32_t pair_result;
  };
  struct Candidate {
    uint32_t rank;
    int32_t position;
  };

  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
};

class Bpe {
 public:
  /// Pieces longer than this many bytes go through the heap.
  static constexpr size_t kLongestScan = 48;

  Bpe() = default;

  /// byte_ids: the token of every single byte. merges: at most 2^31 - 1, in rank order, no pair
  /// twice (checked by add_merges' caller through has_pair).
  Bpe(const std::array<int32_t, 256>& byte_ids, size_t expected_merges);

  /// Appends a merge with the next rank. False (and nothing done) when the pair is already there.
  bool add_merge(const Merge& merge);

  /// Appends the ids of `piece` (any bytes, below 2^31) to `out`. Safe from any number of threads
  /// with their own scratch.
  void encode(std::string_view piece, BpeScratch& scratch, std::vector<int32_t>& out) const;

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX;

  struct Slot {
    uint64_t pair = 0;
    uint32_t rank = kNoRank;  // kNoRank: free
    int32_t result = 0;
  };

  struct Found {
    uint32_t rank;
    int32_t result;
  };

  Found find(int32_t left, int32_t right) const;
  size_t slot_of(uint64_t pair) const;
  void encode_scanning(std::string_view piece, std::vector<int32_t>& out) const;
  void encode_with_heap(std::string_view piece, BpeScratch& scratch,
                        std::vector<int32_t>& out) const;
  void push_pair(BpeScratch& scratch, int32_t position) const;

  std::array<int32_t, 256> byte_ids_{};
  std::vector<Slot> slots_;  // open addressing; a power of two, at most half full
  uint32_t shift_ = 0;
  uint32_t merges_ = 0;
};

}  // namespace nibble::tokenizer
