// Flat storage: one string for all token bytes, one open-addressing table for the way back.
#include "tokenizer/vocabulary.h"

#include "base/hash.h"
#include "base/utf8.h"

#include <fmt/format.h>

#include <bit>

namespace nibble::tokenizer {
namespace {

constexpr int32_t kFree = -1;

// Bytes that stand for themselves in the byte-level alphabet; the others are numbered from U+0100.
bool stands_for_itself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE);
}

// The others in order: 00-20, 7F-A0, AD.
constexpr uint32_t kFirstStandIn = 0x100;
constexpr uint32_t kStandIns = 0x21 + 0x22 + 1;

uint32_t nth_unprintable(uint32_t n) {
  if (n < 0x21) return n;
  if (n < 0x21 + 0x22) return n - 0x21 + 0x7F;
  return 0xAD;
}

uint32_t stand_in_of_byte(uint32_t byte) {
  if (stands_for_itself(byte)) return byte;
  if (byte < 0x21) return kFirstStandIn + byte;
  if (byte < 0xAD) return kFirstStandIn + byte - 0x7F + 0x21;
  return kFirstStandIn + kStandIns - 1;
}

}  // namespace

void Vocabulary::reserve(size_t tokens, size_t total_bytes) {
  arena_.reserve(total_bytes);
  entries_.reserve(tokens);
  grow(tokens);
}

void Vocabulary::grow(size_t tokens) {
  const size_t wanted = std::bit_ceil(tokens * 2 + 16);
  if (wanted <= slots_.size()) return;
  slots_.assign(wanted, kFree);
  for (int32_t id = 0; id < size(); ++id) {
    if (contains(id)) slots_[slot_of(bytes(id))] = id;
  }
}

// The slot that holds these bytes, or the free one where they belong.
size_t Vocabulary::slot_of(std::string_view bytes) const {
  const size_t mask = slots_.size() - 1;
  const uint64_t hash = fnv1a(bytes);
  size_t slot = static_cast<size_t>(hash ^ (hash >> 32)) & mask;
  while (slots_[slot] != kFree && this->bytes(slots_[slot]) != bytes) slot = (slot + 1) & mask;
  return slot;
}

Result<void> Vocabulary::add(int32_t id, std::string_view bytes, TokenKind kind, const char* what) {
  const auto shown = [&] { return stand_ins_of_bytes(bytes.substr(0, 80)); };
  if (id < 0 || id > kMaxTokenId) {
    return Error{ErrorCode::corrupt, fmt::format("{}: token \"{}\" has id {}, expected 0 to {}",
                                                 what, shown(), id, kMaxTokenId)};
  }
  if (bytes.empty())
    return Error{ErrorCode::corrupt, fmt::format("{}: id {}: empty token", what, id)};
  if (arena_.size() + bytes.size() > UINT32_MAX) {
    return Error{ErrorCode::exhausted, fmt::format("{}: the tokens exceed 4 GiB", what)};
  }
  grow(used_ + 1);
  const size_t slot = slot_of(bytes);
  if (slots_[slot] != kFree && slots_[slot] != id) {
    return Error{ErrorCode::corrupt, fmt::format("{}: token \"{}\" has id {}, but also id {}", what,
                                                 shown(), id, slots_[slot])};
  }
  if (id >= size()) entries_.resize(index(id) + 1);
  Entry& entry = entries_[index(id)];
  if (entry.used && slots_[slot] == kFree) {
    return Error{ErrorCode::corrupt,
                 fmt::format("{}: id {} belongs to both \"{}\" and \"{}\"", what, id,
                             stand_ins_of_bytes(this->bytes(id)), shown())};
  }
  if (!entry.used) {
    entry =
        Entry{static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(bytes.size()), {}, true};
    arena_ += bytes;
    slots_[slot] = id;
    ++used_;
  }
  entry.kind.is_base |= kind.is_base;
  entry.kind.is_added |= kind.is_added;
  entry.kind.is_special |= kind.is_special;
  return {};
}

std::optional<int32_t> Vocabulary::find(std::string_view bytes) const {
  if (slots_.empty()) return std::nullopt;
  const int32_t id = slots_[slot_of(bytes)];
  if (id == kFree) return std::nullopt;
  return id;
}

std::optional<uint8_t> byte_of_stand_in(uint32_t code_point) {
  if (code_point < kFirstStandIn) {
    if (!stands_for_itself(code_point)) return std::nullopt;
    return static_cast<uint8_t>(code_point);
  }
  if (code_point >= kFirstStandIn + kStandIns) return std::nullopt;
  return static_cast<uint8_t>(nth_unprintable(code_point - kFirstStandIn));
}

bool append_stand_in_bytes(std::string& out, std::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = decode_utf8(text);
    const auto byte = step.valid ? byte_of_stand_in(step.code_point) : std::nullopt;
    if (!byte) return false;
    out += static_cast<char>(*byte);
    text.remove_prefix(static_cast<size_t>(step.length));
  }
  return true;
}

std::string stand_ins_of_bytes(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) append_utf8(out, stand_in_of_byte(static_cast<uint8_t>(c)));
  return out;
}

}  // namespace nibble::tokenizer
