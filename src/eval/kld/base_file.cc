#include "eval/kld/base_file.h"

#include "base/file.h"
#include "base/json.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

namespace nibble::eval {
namespace {

constexpr std::string_view kMagic = "nibbase1";
constexpr std::string_view kLlamaMagic = "_logits_";
constexpr double kLlamaLeastLnP = -16;

// Bounds of what a header may claim, so that no product of them overflows.
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxTokens = int64_t{1} << 30;

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

// Reads a file's header piece by piece; a piece that is not there leaves ok() false.
class HeaderReader {
 public:
  explicit HeaderReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  T take() {
    T value{};
    const auto piece = take_bytes(sizeof value);
    if (ok_) std::memcpy(&value, piece.data(), sizeof value);
    return value;
  }
  std::span<const std::byte> take_bytes(size_t count) {
    ok_ = ok_ && count <= bytes_.size() - offset_;
    if (!ok_) return {};
    offset_ += count;
    return bytes_.subspan(offset_ - count, count);
  }
  std::string_view take_text(size_t count) {
    const auto piece = take_bytes(count);
    return {reinterpret_cast<const char*>(piece.data()), piece.size()};
  }
  std::vector<int32_t> take_tokens(size_t count) {
    const auto piece = take_bytes(count * sizeof(int32_t));
    std::vector<int32_t> tokens(piece.size() / sizeof(int32_t));
    if (!piece.empty()) std::memcpy(tokens.data(), piece.data(), piece.size());
    return tokens;
  }
  bool ok() const { return ok_; }
  size_t offset() const { return offset_; }

 private:
  std::span<const std::byte> bytes_;
  size_t offset_ = 0;
  bool ok_ = true;
};

// The sequences are exactly the windows that llama.cpp's layout means.
bool are_half_scored_windows(std::span<const ScoredSequence> sequences, int64_t context) {
  for (const ScoredSequence& sequence : sequences) {
    if (sequence.length() != context || sequence.first_scored != context / 2 + 1) return false;
  }
  return context >= 4 && !sequences.empty();
}

Json header_json(const BaseFileInfo& info, std::span<const ScoredSequence> sequences) {
  Json lengths = Json::array();
  for (const ScoredSequence& sequence : sequences) {
    lengths.push_back({sequence.length(), sequence.first_scored});
  }
  return {{"encoding", base_encoding_name(info.layout.encoding)},
          {"vocab_size", info.layout.vocab_size},
          {"kept", info.layout.kept},
          {"context", info.context},
          {"model", info.model},
          {"quantization", info.quantization},
          {"arithmetic", info.arithmetic},
          {"kv_dtype", info.kv_dtype},
          {"device", info.device},
          {"mode", info.mode},
          {"data_sha256", info.data_sha256},
          {"token_sha256", sequences_digest(sequences)},
          {"sequences", lengths}};
}

Result<BaseFileInfo> info_of(const Json& header, const std::string& what) {
  BaseFileInfo info;
  NIBBLE_ASSIGN_OR_RETURN(const std::string encoding, json_string(header, "encoding", what));
  NIBBLE_ASSIGN_OR_RETURN(info.layout.encoding, parse_base_encoding(encoding));
  info.layout.has_tail = info.layout.encoding == BaseEncoding::codes16;
  NIBBLE_ASSIGN_OR_RETURN(info.layout.vocab_size, json_int(header, "vocab_size", what));
  NIBBLE_ASSIGN_OR_RETURN(info.layout.kept, json_int(header, "kept", what));
  NIBBLE_ASSIGN_OR_RETURN(info.context, json_int(header, "context", what));
  const std::pair<const char*, std::string*> texts[] = {{"model", &info.model},
                                                        {"quantization", &info.quantization},
                                                        {"arithmetic", &info.arithmetic},
                                                        {"kv_dtype", &info.kv_dtype},
                                                        {"device", &info.device},
                                                        {"mode", &info.mode},
                                                        {"data_sha256", &info.data_sha256}};
  for (const auto& [key, member] : texts) {
    NIBBLE_ASSIGN_OR_RETURN(*member, json_string(header, key, what));
  }
  return info;
}

}  // namespace

BaseFileWriter::BaseFileWriter(std::string path, const BaseRowLayout& layout, int64_t rows)
    : path_(std::move(path)),
      partial_(path_ + ".tmp"),
      layout_(layout),
      rows_(rows),
      row_(layout.row_bytes()) {}

Result<std::unique_ptr<BaseFileWriter>> BaseFileWriter::create(
    const std::string& path, const BaseFileInfo& info, std::span<const ScoredSequence> sequences) {
  NIBBLE_CHECK(info.layout.has_tail == (info.format == BaseFormat::nibble &&
                                        info.layout.encoding == BaseEncoding::codes16),
               "only our rows of codes have a tail");
  if (info.format == BaseFormat::llama && !are_half_scored_windows(sequences, info.context)) {
    return Error{ErrorCode::unsupported,
                 path + ": llama.cpp's layout holds windows of mode llama only"};
  }
  std::unique_ptr<BaseFileWriter> writer(
      new BaseFileWriter(path, info.layout, total_scored_tokens(sequences)));
  writer->file_ = std::fopen(writer->partial_.c_str(), "wb");
  if (writer->file_ == nullptr) return errno_error(writer->partial_, errno);
  NIBBLE_RETURN_IF_ERROR(writer->write_header(info, sequences));
  return writer;
}

BaseFileWriter::~BaseFileWriter() {
  if (file_ == nullptr) return;
  std::fclose(file_);
  std::remove(partial_.c_str());
}

Result<void> BaseFileWriter::write(std::span<const std::byte> bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) {
    return errno_error(partial_, errno);
  }
  bytes_ += static_cast<int64_t>(bytes.size());
  return {};
}

Result<void> BaseFileWriter::write_header(const BaseFileInfo& info,
                                          std::span<const ScoredSequence> sequences) {
  if (info.format == BaseFormat::llama) {
    NIBBLE_RETURN_IF_ERROR(write(std::as_bytes(std::span(kLlamaMagic))));
    NIBBLE_RETURN_IF_ERROR(write(bytes_of(static_cast<uint32_t>(info.context))));
    NIBBLE_RETURN_IF_ERROR(write(bytes_of(static_cast<int32_t>(info.layout.vocab_size))));
    NIBBLE_RETURN_IF_ERROR(write(bytes_of(static_cast<int32_t>(sequences.size()))));
  } else {
    const std::string header = dump_json(header_json(info, sequences));
    NIBBLE_RETURN_IF_ERROR(write(std::as_bytes(std::span(kMagic))));
    NIBBLE_RETURN_IF_ERROR(write(bytes_of(static_cast<uint64_t>(header.size()))));
    NIBBLE_RETURN_IF_ERROR(write(std::as_bytes(std::span(header))));
  }
  for (const ScoredSequence& sequence : sequences) {
    NIBBLE_RETURN_IF_ERROR(write(std::as_bytes(std::span(sequence.tokens))));
  }
  return {};
}

Result<void> BaseFileWriter::add(std::span<const float> logits, int32_t token) {
  NIBBLE_CHECK(rows_written_ < rows_, "too many positions for a base file", rows_written_, rows_);
  encode_base_row(layout_, logits, token, row_);
  ++rows_written_;
  return write(row_);
}

Result<void> BaseFileWriter::finish() {
  NIBBLE_CHECK(rows_written_ == rows_, "positions of a base file", rows_written_, rows_);
  const bool flushed = std::fflush(file_) == 0 && fsync(fileno(file_)) == 0;
  const int failure = errno;
  const bool closed = std::fclose(std::exchange(file_, nullptr)) == 0;
  if (!flushed || !closed) {
    const Error error = errno_error(partial_, flushed ? errno : failure);
    std::remove(partial_.c_str());
    return error;
  }
  if (std::rename(partial_.c_str(), path_.c_str()) != 0) return errno_error(path_, errno);
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  return sync_directory(folder.empty() ? "." : folder);
}

Error BaseFileReader::corrupt(const std::string& what) const {
  return Error{ErrorCode::corrupt, path_ + ": " + what};
}

Result<std::unique_ptr<BaseFileReader>> BaseFileReader::open(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  std::unique_ptr<BaseFileReader> reader(new BaseFileReader(path, std::move(file)));
  const std::string_view magic = HeaderReader(reader->file_.bytes()).take_text(kMagic.size());
  if (magic == kMagic) {
    NIBBLE_RETURN_IF_ERROR(reader->parse_ours());
  } else if (magic == kLlamaMagic) {
    NIBBLE_RETURN_IF_ERROR(reader->parse_llama());
  } else {
    return reader->corrupt(
        "is no base file: it starts neither with 'nibbase1' nor with '_logits_'");
  }
  return reader;
}

Result<void> BaseFileReader::parse_ours() {
  HeaderReader in(file_.bytes());
  in.take_text(kMagic.size());
  const auto header_bytes = in.take<uint64_t>();
  const std::string_view text = in.take_text(header_bytes);
  if (!in.ok()) return corrupt("the header is cut off");
  NIBBLE_ASSIGN_OR_RETURN(const Json header, parse_json(text, path_ + ": header"));
  NIBBLE_ASSIGN_OR_RETURN(info_, info_of(header, path_ + ": header"));
  const BaseRowLayout& layout = info_.layout;
  if (layout.vocab_size < 1 || layout.vocab_size > kMaxVocab) return corrupt("vocab_size");
  if (layout.encoding == BaseEncoding::top_entries &&
      (layout.kept < 5 || layout.kept > layout.vocab_size)) {
    return corrupt(fmt::format("kept: found {}, expected 5 to {}", layout.kept, layout.vocab_size));
  }
  const auto lengths = header.find("sequences");
  if (lengths == header.end() || !lengths->is_array()) return corrupt("sequences: no array");
  int64_t tokens = 0;
  for (const Json& entry : *lengths) {
    const bool is_pair = entry.is_array() && entry.size() == 2 && entry[0].is_number_integer() &&
                         entry[1].is_number_integer();
    const int64_t length = is_pair ? entry[0].get<int64_t>() : 0;
    const int64_t first = is_pair ? entry[1].get<int64_t>() : 0;
    if (length < 2 || first < 1 || first >= length || (tokens += length) > kMaxTokens) {
      return corrupt("sequences: an entry is no [length, first scored token]");
    }
    sequences_.push_back(
        {in.take_tokens(static_cast<size_t>(length)), static_cast<int32_t>(first)});
    if (!in.ok()) return corrupt("the tokens are cut off");
  }
  NIBBLE_RETURN_IF_ERROR(take_rows(in.offset()));
  NIBBLE_ASSIGN_OR_RETURN(const std::string digest, json_string(header, "token_sha256", path_));
  if (digest != sequences_digest(sequences_)) return corrupt("token_sha256 is not of these tokens");
  return {};
}

Result<void> BaseFileReader::parse_llama() {
  HeaderReader in(file_.bytes());
  in.take_text(kLlamaMagic.size());
  const auto context = in.take<uint32_t>();
  const auto vocab_size = in.take<int32_t>();
  const auto chunks = in.take<int32_t>();
  if (!in.ok()) return corrupt("the header is cut off");
  if (context < 4 || context > (1U << 24) || vocab_size < 1 || vocab_size > kMaxVocab ||
      chunks < 1 || int64_t{chunks} * int64_t{context} > kMaxTokens) {
    return corrupt(fmt::format("n_ctx {}, n_vocab {}, n_chunk {}: not plausible", context,
                               vocab_size, chunks));
  }
  info_.format = BaseFormat::llama;
  info_.mode = "llama";
  info_.context = context;
  info_.layout = {BaseEncoding::codes16, vocab_size, 0, false};
  for (int32_t chunk = 0; chunk < chunks; ++chunk) {
    sequences_.push_back({in.take_tokens(context), static_cast<int32_t>(context / 2 + 1)});
    if (!in.ok()) return corrupt("the tokens are cut off");
  }
  return take_rows(in.offset());
}

// Everything behind `offset` is rows; checks the tokens too.
Result<void> BaseFileReader::take_rows(size_t offset) {
  rows_offset_ = offset;
  rows_ = total_scored_tokens(sequences_);
  const size_t found = file_.bytes().size() - offset;
  const size_t expected = static_cast<size_t>(rows_) * info_.layout.row_bytes();
  if (found != expected) {
    return corrupt(fmt::format("{} bytes of rows, expected {} ({} positions of {})", found,
                               expected, rows_, info_.layout.row_bytes()));
  }
  for (const ScoredSequence& sequence : sequences_) {
    for (const int32_t token : sequence.tokens) {
      if (token < 0 || token >= info_.layout.vocab_size) {
        return corrupt(
            fmt::format("token id {}, expected 0 to {}", token, info_.layout.vocab_size - 1));
      }
    }
  }
  return {};
}

Result<PositionRecord> BaseFileReader::compare(int64_t row, const LogProbRow& model, int32_t token,
                                               std::vector<float>& scratch) const {
  NIBBLE_CHECK(row >= 0 && row < rows_, "row of a base file", row, rows_);
  const BaseRowLayout& layout = info_.layout;
  const std::span<const std::byte> bytes = file_.bytes().subspan(
      rows_offset_ + static_cast<size_t>(row) * layout.row_bytes(), layout.row_bytes());
  const auto context = [&](const Error& error) {
    return error.with(fmt::format("{}: position {}", path_, row));
  };
  if (layout.encoding == BaseEncoding::top_entries) {
    const auto entries = decode_top_entries(layout, bytes);
    if (!entries.ok()) return context(entries.error());
    return compare_top_entries(entries.value(), model, token);
  }
  scratch.resize(static_cast<size_t>(layout.vocab_size));
  const Result<void> decoded = decode_values(layout, bytes, scratch);
  if (!decoded.ok()) return context(decoded.error());
  if (info_.format == BaseFormat::llama) {
    return compare_position({scratch, 0}, model, token, kLlamaLeastLnP);
  }
  if (!layout.has_tail) return compare_position(normalized(scratch), model, token);
  const CodesTail tail = decode_tail(layout, bytes).value();  // checked above
  PositionRecord record =
      compare_with_rest(scratch, static_cast<double>(tail.ln_rest), model, token);
  record.base_nll = -static_cast<double>(tail.token_ln_p);
  return record;
}

}  // namespace nibble::eval
