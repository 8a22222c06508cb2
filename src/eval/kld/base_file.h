// Base files: one model's log-probabilities at every scored position, kept for later comparisons.
//
// Ours: "nibbase1", a JSON header (tokens' digest, how the model ran), the tokens, the rows. Or
// llama.cpp's layout: "_logits_", n_ctx, n_vocab, n_chunk, tokens, rows of 16-bit codes. A file is
// written under a temporary name and appears whole. Rows are in the order of the scored tokens.
#pragma once

#include "base/mapped_file.h"
#include "base/result.h"
#include "eval/kld/base_row.h"
#include "eval/sequences.h"

#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace nibble::eval {

enum class BaseFormat { nibble, llama };

/// What a header says beside the tokens.
struct BaseFileInfo {
  BaseFormat format = BaseFormat::nibble;
  BaseRowLayout layout;  // llama: codes16
  int64_t context = 0;  // llama: n_ctx
  // Ours only:
  std::string model, quantization, arithmetic, kv_dtype, device, mode, data_sha256;
};

class BaseFileWriter {
 public:
  /// Errors: io and its kind; unsupported for llama's layout when the sequences are no half scored
  /// windows of info.context tokens.
  static Result<std::unique_ptr<BaseFileWriter>> create(const std::string& path,
                                                        const BaseFileInfo& info,
                                                        std::span<const ScoredSequence> sequences);
  /// Removes the temporary file if finish() was not reached.
  ~BaseFileWriter();
  BaseFileWriter(const BaseFileWriter&) = delete;
  BaseFileWriter& operator=(const BaseFileWriter&) = delete;

  /// The next scored position.
  Result<void> add(std::span<const float> logits, int32_t token);
  /// All positions are there: syncs and renames.
  Result<void> finish();
  int64_t bytes() const { return bytes_; }

 private:
  BaseFileWriter(std::string path, const BaseRowLayout& layout, int64_t rows);
  Result<void> write(std::span<const std::byte> bytes);
  Result<void> write_header(const BaseFileInfo& info, std::span<const ScoredSequence> sequences);

  std::string path_, partial_;
  BaseRowLayout layout_;
  int64_t rows_ = 0, rows_written_ = 0, bytes_ = 0;
  std::FILE* file_ = nullptr;
  std::vector<std::byte> row_;
};

class BaseFileReader {
 public:
  /// Checks header, tokens and size; rows are checked when they are read. Errors: corrupt, io.
  static Result<std::unique_ptr<BaseFileReader>> open(const std::string& path);

  const BaseFileInfo& info() const { return info_; }
  const std::vector<ScoredSequence>& sequences() const { return sequences_; }
  int64_t rows() const { return rows_; }

  /// Compares scored position `row` with a model. llama's layout: terms with ln P <= -16 are left
  /// out and the codes are taken as they are, as llama.cpp does; ours are normalized. `scratch` is
  /// resized. Safe from several threads with one scratch each.
  Result<PositionRecord> compare(int64_t row, const LogProbRow& model, int32_t token,
                                 std::vector<float>& scratch) const;

 private:
  BaseFileReader(std::string path, MappedFile file)
      : path_(std::move(path)), file_(std::move(file)) {}
  Result<void> parse_ours();
  Result<void> parse_llama();
  Result<void> take_rows(size_t offset);
  Error corrupt(const std::string& what) const;

  std::string path_;
  MappedFile file_;
  BaseFileInfo info_;
  std::vector<ScoredSequence> sequences_;
  int64_t rows_ = 0;
  size_t rows_offset_ = 0;
};

}  // namespace nibble::eval
