#include "tests/golden/golden_file.h"

#include <cstring>
#include <limits>

namespace nibble::golden {

Result<GoldenFile> GoldenFile::open(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(auto reader, formats::SafetensorsReader::open(path));
  return GoldenFile(std::move(reader));
}

std::vector<std::string> GoldenFile::names() const {
  std::vector<std::string> out;
  for (const formats::TensorInfo& tensor : reader_.tensors()) out.push_back(tensor.name);
  return out;
}

bool GoldenFile::has(const std::string& name) const {
  return reader_.find(name) != nullptr;
}

GoldenTensor GoldenFile::read(const std::string& name) const {
  const formats::TensorInfo* tensor = reader_.find(name);
  NIBBLE_CHECK(tensor != nullptr, "golden tensor is missing", name);
  const ConstTensorView view = reader_.view(*tensor);
  GoldenTensor out{view.shape(), {}};
  const auto count = static_cast<size_t>(view.shape().elements());
  out.values.resize(count);
  for (size_t i = 0; i < count; ++i) {
    if (view.dtype() == DType::i32) {
      int32_t value = 0;
      std::memcpy(&value, view.data() + 4 * i, 4);
      out.values[i] = static_cast<float>(value);
    } else {
      NIBBLE_CHECK(view.dtype() == DType::f32, "golden dtype", dtype_name(view.dtype()));
      std::memcpy(&out.values[i], view.data() + 4 * i, 4);
    }
  }
  return out;
}

std::vector<int32_t> GoldenFile::read_ids(const std::string& name) const {
  std::vector<int32_t> ids;
  for (const float value : read(name).values) ids.push_back(static_cast<int32_t>(value));
  return ids;
}

double max_error(const std::vector<float>& mine, const std::vector<float>& golden) {
  if (mine.size() != golden.size()) return std::numeric_limits<double>::infinity();
  double difference = 0;
  double scale = 0;
  for (size_t i = 0; i < mine.size(); ++i) {
    if (!std::isfinite(mine[i])) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, std::abs(static_cast<double>(mine[i]) - golden[i]));
    scale = std::max(scale, std::abs(static_cast<double>(golden[i])));
  }
  return difference == 0 ? 0 : difference / scale;
}

double l2_error(const std::vector<float>& mine, const std::vector<float>& golden) {
  if (mine.size() != golden.size()) return std::numeric_limits<double>::infinity();
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < mine.size(); ++i) {
    const double d = static_cast<double>(mine[i]) - golden[i];
    difference += d * d;
    norm += static_cast<double>(golden[i]) * golden[i];
  }
  if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
  return difference == 0 ? 0 : std::sqrt(difference / norm);
}

std::vector<float> select_rows(const std::vector<float>& values, size_t width,
                               const std::vector<int32_t>& rows) {
  std::vector<float> out;
  for (const int32_t row : rows) {
    const auto first =
        values.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(row) * width);
    out.insert(out.end(), first, first + static_cast<std::ptrdiff_t>(width));
  }
  return out;
}

}  // namespace nibble::golden
