// Golden tensors read from a safetensors file as f32 or i32, and the two error measures of the
// golden families.
#pragma once

#include "base/result.h"
#include "formats/safetensors_reader.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace nibble::golden {

struct GoldenTensor {
  Shape shape;
  std::vector<float> values;  // I32 values are exact up to 2^24
};

class GoldenFile {
 public:
  static Result<GoldenFile> open(const std::string& path);
  std::vector<std::string> names() const;
  bool has(const std::string& name) const;
  /// Aborts when the tensor is absent: golden files are fixed.
  GoldenTensor read(const std::string& name) const;
  std::vector<int32_t> read_ids(const std::string& name) const;

 private:
  explicit GoldenFile(formats::SafetensorsReader reader) : reader_(std::move(reader)) {}
  formats::SafetensorsReader reader_;
};

/// max|mine - golden| / max|golden|; infinite when sizes differ or a value is not finite.
double max_error(const std::vector<float>& mine, const std::vector<float>& golden);
/// Relative L2 error.
double l2_error(const std::vector<float>& mine, const std::vector<float>& golden);

/// Rows `rows` of a [n][width] buffer.
std::vector<float> select_rows(const std::vector<float>& values, size_t width,
                               const std::vector<int32_t>& rows);

}  // namespace nibble::golden
