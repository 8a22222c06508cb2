#include "quantize/statistics_file.h"

#include "base/file.h"
#include "base/hash.h"
#include "formats/safetensors_writer.h"
#include "quantize/member_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace nibble::quantize {
namespace {

using formats::SafetensorsReader;
using formats::SafetensorsWriter;
using formats::TensorInfo;
using formats::TensorSpec;

// Of each tensor, for the digest of a checkpoint: enough to tell a model from its fine-tune.
constexpr size_t kDigestedBytes = 1024;

std::string prefix_of(int layer) {
  return layer == kOutsideLayers ? "layer.head." : fmt::format("layer.{}.", layer);
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

TensorSpec text_spec(const std::string& name, const std::string& text) {
  return {name, DType::u8, Shape{static_cast<int64_t>(text.size())}};
}

Result<std::string> read_text(const SafetensorsReader& file, const std::string& name) {
  const TensorInfo* tensor = file.find(name);
  if (tensor == nullptr || tensor->dtype != DType::u8) {
    return Error{ErrorCode::corrupt,
                 file.path() + ": no text \"" + name + "\"; not a file of statistics"};
  }
  const std::span<const std::byte> bytes = file.bytes(*tensor);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace

Result<std::string> source_digest(const formats::Checkpoint& checkpoint,
                                  const std::string& directory) {
  NIBBLE_ASSIGN_OR_RETURN(std::string text, read_file(directory + "/config.json"));
  for (const std::string_view name : checkpoint.names()) {
    const ConstTensorView view = checkpoint.view(name);
    const size_t count = std::min(view.bytes(), kDigestedBytes);
    text += fmt::format("\n{} {} {} ", name, dtype_name(view.dtype()), to_string(view.shape()));
    text.append(reinterpret_cast<const char*>(view.data()), count);
  }
  checkpoint.release_pages();
  return sha256_hex(bytes_of(text));
}

Result<StatisticsFile> StatisticsFile::open(const std::string& path,
                                            const StatisticsIdentity& wanted, bool needs_moments) {
  NIBBLE_ASSIGN_OR_RETURN(SafetensorsReader reader, SafetensorsReader::open(path));
  StatisticsFile out(std::move(reader));
  NIBBLE_ASSIGN_OR_RETURN(const std::string source, read_text(out.file_, "source"));
  NIBBLE_ASSIGN_OR_RETURN(const std::string calibration, read_text(out.file_, "calibration"));
  NIBBLE_ASSIGN_OR_RETURN(const std::string summary, read_text(out.file_, "summary"));
  NIBBLE_ASSIGN_OR_RETURN(out.summary_, CalibrationSummary::parse(summary, path + ": summary"));
  if (source != wanted.source || calibration != wanted.calibration) {
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("{}: made from source {:.12} with calibration {:.12} ({}); this run has source "
                    "{:.12} and calibration {:.12}. Name another file, or remove this one",
                    path, source, calibration, out.summary_.data, wanted.source,
                    wanted.calibration)};
  }
  const TensorInfo* moments = out.file_.find(prefix_of(kOutsideLayers) + "mixer_in");
  if (needs_moments && moments == nullptr) {
    return Error{ErrorCode::invalid_argument,
                 path +
                     ": holds no second moments, which this search needs; name another file, or "
                     "remove this one to have them gathered"};
  }
  return out;
}

Result<LayerStatistics> StatisticsFile::layer(int index) const {
  const std::string prefix = prefix_of(index);
  LayerStatistics out;
  NIBBLE_ASSIGN_OR_RETURN(const std::string table, read_text(file_, prefix + "maxima"));
  NIBBLE_ASSIGN_OR_RETURN(
      out.maxima, ActivationMaxima::parse_table(table, file_.path() + ": " + prefix + "maxima"));
  const TensorInfo* seen = file_.find(prefix + "experts_seen");
  if (seen == nullptr || seen->dtype != DType::i64 || seen->shape.elements() != 1) {
    return Error{ErrorCode::corrupt, file_.path() + ": " + prefix + "experts_seen: no I64"};
  }
  std::memcpy(&out.experts_seen, file_.bytes(*seen).data(), sizeof out.experts_seen);
  NIBBLE_ASSIGN_OR_RETURN(out.moments, LayerMoments::read(file_, prefix));
  file_.release_pages();
  return out;
}

std::string StatisticsRecorder::note_of(int layer) const {
  return scratch_ + prefix_of(layer) + "statistics";
}

Result<void> StatisticsRecorder::add(int layer, const LayerStatistics& statistics) const {
  const std::string prefix = prefix_of(layer);
  const std::string table = statistics.maxima.table();
  std::vector<TensorSpec> specs = statistics.moments.specs(prefix);
  specs.push_back(text_spec(prefix + "maxima", table));
  specs.push_back({prefix + "experts_seen", DType::i64, Shape{1}});
  NIBBLE_ASSIGN_OR_RETURN(SafetensorsWriter writer,
                          SafetensorsWriter::create(note_of(layer), specs));
  NIBBLE_RETURN_IF_ERROR(statistics.moments.append(writer, prefix));
  NIBBLE_RETURN_IF_ERROR(writer.append(prefix + "maxima", bytes_of(table)));
  NIBBLE_RETURN_IF_ERROR(writer.append(prefix + "experts_seen",
                                       std::as_bytes(std::span(&statistics.experts_seen, 1))));
  NIBBLE_RETURN_IF_ERROR(writer.finish());
  return layer == kOutsideLayers ? write_file() : Result<void>();
}

Result<void> StatisticsRecorder::write_file() const {
  const std::string summary = summary_.to_json();
  std::vector<TensorSpec> specs = {text_spec("source", identity_.source),
                                   text_spec("calibration", identity_.calibration),
                                   text_spec("summary", summary)};
  for (int layer = kOutsideLayers; layer < num_layers_; ++layer) {
    NIBBLE_ASSIGN_OR_RETURN(const auto note, SafetensorsReader::open(note_of(layer)));
    for (const TensorInfo& tensor : note.tensors()) {
      specs.push_back({tensor.name, tensor.dtype, tensor.shape});
    }
  }
  NIBBLE_ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::create(path_, specs));
  NIBBLE_RETURN_IF_ERROR(writer.append("source", bytes_of(identity_.source)));
  NIBBLE_RETURN_IF_ERROR(writer.append("calibration", bytes_of(identity_.calibration)));
  NIBBLE_RETURN_IF_ERROR(writer.append("summary", bytes_of(summary)));
  for (int layer = kOutsideLayers; layer < num_layers_; ++layer) {
    NIBBLE_ASSIGN_OR_RETURN(const auto note, SafetensorsReader::open(note_of(layer)));
    for (const TensorInfo& tensor : note.tensors()) {
      NIBBLE_RETURN_IF_ERROR(writer.append(tensor.name, note.bytes(tensor)));
    }
  }
  return writer.finish();
}

}  // namespace nibble::quantize
