// Token bytes by id and id by token bytes, for ordinary and added tokens together.
//
// Ids may have holes (a model's embedding can be larger than its vocabulary). The bytes of a token
// are unique: two ids never share them.
#pragma once

#include "base/result.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::tokenizer {

inline constexpr int32_t kMaxTokenId = (1 << 20) - 1;

/// What a token is; an added token may also stand in the model's own vocabulary.
struct TokenKind {
  bool is_base = false;  // in model.vocab: BPE can produce it
  bool is_added = false;  // matched in the text before BPE
  bool is_special = false;  // added, and left out of text on request
};

class Vocabulary {
 public:
  /// Prepares for about this many tokens of this many bytes in all.
  void reserve(size_t tokens, size_t total_bytes);

  /// Adds a token. Errors: id outside 0..kMaxTokenId, id or bytes already taken by another token.
  /// Naming the same id and bytes again merges the kinds. `what` names the place in the file.
  Result<void> add(int32_t id, std::string_view bytes, TokenKind kind, const char* what);

  /// Largest id plus one.
  int32_t size() const { return static_cast<int32_t>(entries_.size()); }

  bool contains(int32_t id) const { return id >= 0 && id < size() && entries_[index(id)].used; }

  /// Bytes of a token; empty for an id that no token has. Valid until the next add().
  std::string_view bytes(int32_t id) const {
    if (!contains(id)) return {};
    const Entry& entry = entries_[index(id)];
    return std::string_view(arena_).substr(entry.begin, entry.length);
  }

  TokenKind kind(int32_t id) const { return contains(id) ? entries_[index(id)].kind : TokenKind(); }

  std::optional<int32_t> find(std::string_view bytes) const;

 private:
  struct Entry {
    uint32_t begin = 0;
    uint32_t length = 0;
    TokenKind kind;
    bool used = false;
  };

  static size_t index(int32_t id) { return static_cast<size_t>(id); }
  size_t slot_of(std::string_view bytes) const;
  void grow(size_t tokens);

  std::string arena_;
  std::vector<Entry> entries_;
  std::vector<int32_t> slots_;  // open addressing, -1 = free; a power of two
  size_t used_ = 0;
};

/// Byte of one character of the byte-level alphabet (every byte has a printable stand-in), or
/// nothing.
std::optional<uint8_t> byte_of_stand_in(uint32_t code_point);

/// Bytes written with stand-ins ("\u0120the" is " the"), appended to `out`. False when a character
/// is no stand-in.
bool append_stand_in_bytes(std::string& out, std::string_view text);

/// The other direction.
std::string stand_ins_of_bytes(std::string_view bytes);

}  // namespace nibble::tokenizer
