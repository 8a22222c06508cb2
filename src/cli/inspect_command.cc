// nibble inspect: what a checkpoint holds, by group, and statistics of one tensor.
#include "base/json.h"
#include "base/sizes.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "formats/bf16.h"
#include "formats/checkpoint.h"
#include "formats/e4m3.h"
#include "formats/linear_weight.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

namespace nibble::cli {
namespace {

using formats::Checkpoint;
using formats::TensorInfo;

// Tensors that differ only in layer and expert numbers, type and shape aside.
struct Group {
  std::string pattern;
  std::string dtype;
  std::string shape;
  int64_t count = 0;
  int64_t bytes = 0;
};

// "layers.12.mlp.experts.7.up_proj" -> "layers.*.mlp.experts.*.up_proj".
std::string pattern_of(std::string_view name) {
  std::string out;
  size_t begin = 0;
  while (begin <= name.size()) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    const bool number =
        !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
    if (!out.empty()) out += '.';
    out += number ? "*" : std::string(part);
    begin = end + 1;
  }
  return out;
}

std::vector<Group> group_tensors(const Checkpoint& checkpoint) {
  std::map<std::string, Group> groups;
  for (const std::string_view name : checkpoint.names()) {
    const TensorInfo& tensor = *checkpoint.find(name);
    const std::string pattern = pattern_of(name);
    const std::string dtype = dtype_name(tensor.dtype);
    const std::string shape = to_string(tensor.shape);
    Group& group = groups[pattern + "|" + dtype + "|" + shape];
    group.pattern = pattern;
    group.dtype = dtype;
    group.shape = shape;
    ++group.count;
    group.bytes += static_cast<int64_t>(tensor.bytes);
  }
  std::vector<Group> out;
  for (auto& [key, group] : groups) out.push_back(std::move(group));
  return out;
}

void print_groups(const Checkpoint& checkpoint, bool json) {
  const std::vector<Group> groups = group_tensors(checkpoint);
  const auto total = static_cast<int64_t>(checkpoint.total_bytes());
  if (json) {
    OrderedJson list = OrderedJson::array();
    for (const Group& g : groups) {
      list.push_back({{"pattern", g.pattern},
                      {"dtype", g.dtype},
                      {"shape", g.shape},
                      {"count", g.count},
                      {"bytes", g.bytes}});
    }
    const OrderedJson out = {{"path", checkpoint.path()},
                             {"tensors", checkpoint.num_tensors()},
                             {"bytes", total},
                             {"groups", list}};
    fmt::print("{}\n", dump_json(out, 2));
    return;
  }
  size_t width = 0;
  for (const Group& g : groups) width = std::max(width, g.pattern.size());
  for (const Group& g : groups) {
    fmt::print("{:<{}}  {:>6} x {:<8} {:<18} {:>11}\n", g.pattern, width, g.count, g.dtype, g.shape,
               format_bytes(g.bytes));
  }
  fmt::print("{} tensors, {} ({} bytes)\n", checkpoint.num_tensors(), format_bytes(total), total);
}

struct Statistics {
  int64_t count = 0, zeros = 0, not_finite = 0;
  double minimum = INFINITY, maximum = -INFINITY, sum = 0, sum_of_squares = 0;

  void add(float value) {
    ++count;
    if (!std::isfinite(value)) {
      ++not_finite;
      return;
    }
    if (value == 0) ++zeros;
    minimum = std::min(minimum, static_cast<double>(value));
    maximum = std::max(maximum, static_cast<double>(value));
    sum += value;
    sum_of_squares += static_cast<double>(value) * value;
  }
};

template <typename Integer>
float integer_at(const TensorInfo& tensor, const std::byte* data, int64_t index) {
  Integer value{};
  std::memcpy(&value, data + index * static_cast<int64_t>(dtype_bytes(tensor.dtype)), sizeof value);
  return static_cast<float>(value);
}

// Element as a number; types without a meaning here (F16, F8_E5M2, ...) are refused before.
float element_at(const TensorInfo& tensor, const std::byte* data, int64_t index) {
  switch (tensor.dtype) {
    case DType::f32:
      return integer_at<float>(tensor, data, index);
    case DType::bf16: {
      uint16_t bits = 0;
      std::memcpy(&bits, data + 2 * index, 2);
      return formats::bf16_to_f32(bits);
    }
    case DType::f8_e4m3:
      return formats::e4m3_to_f32(static_cast<uint8_t>(data[index]));
    case DType::i32:
      return integer_at<int32_t>(tensor, data, index);
    case DType::i64:
      return integer_at<int64_t>(tensor, data, index);
    default:
      return integer_at<uint8_t>(tensor, data, index);
  }
}

// Statistics over the values the tensor stands for: NVFP4 codes are decoded with their scales.
Result<Statistics> statistics_of(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  Statistics out;
  const std::string stem = tensor.name.substr(0, tensor.name.rfind('.'));
  if (tensor.dtype == DType::u8 && tensor.name.ends_with(".weight")) {
    NIBBLE_ASSIGN_OR_RETURN(const auto weight, formats::load_linear_weight(checkpoint, stem));
    std::vector<float> row(static_cast<size_t>(weight.in_features));
    for (int64_t n = 0; n < weight.out_features; ++n) {
      formats::decode_row_f32(weight, n, row.data());
      for (const float value : row) out.add(value);
    }
    return out;
  }
  switch (tensor.dtype) {
    case DType::f32:
    case DType::bf16:
    case DType::f8_e4m3:
    case DType::u8:
    case DType::i32:
    case DType::i64:
      break;
    default:
      return Error{ErrorCode::unsupported, fmt::format("{}: no statistics for {} tensors",
                                                       tensor.name, dtype_name(tensor.dtype))};
  }
  const ConstTensorView view = checkpoint.view(tensor.name);
  for (int64_t i = 0; i < tensor.shape.elements(); ++i) out.add(element_at(tensor, view.data(), i));
  return out;
}

Result<void> print_tensor(const Checkpoint& checkpoint, const std::string& name, bool json) {
  const TensorInfo* tensor = checkpoint.find(name);
  if (tensor == nullptr) {
    return Error{ErrorCode::invalid_argument, checkpoint.path() + ": no tensor named " + name};
  }
  NIBBLE_ASSIGN_OR_RETURN(const Statistics s, statistics_of(checkpoint, *tensor));
  const auto finite = static_cast<double>(std::max<int64_t>(1, s.count - s.not_finite));
  const double mean = s.sum / finite;
  const double rms = std::sqrt(s.sum_of_squares / finite);
  if (json) {
    const OrderedJson out = {{"name", name},
                             {"dtype", dtype_name(tensor->dtype)},
                             {"shape", to_string(tensor->shape)},
                             {"bytes", tensor->bytes},
                             {"shard", checkpoint.shard_path(name)},
                             {"elements", s.count},
                             {"min", s.minimum},
                             {"max", s.maximum},
                             {"mean", mean},
                             {"rms", rms},
                             {"zeros", s.zeros},
                             {"not_finite", s.not_finite}};
    fmt::print("{}\n", dump_json(out, 2));
    return {};
  }
  fmt::print("{}\n  {} {}, {} in {}\n", name, dtype_name(tensor->dtype), to_string(tensor->shape),
             format_bytes(static_cast<int64_t>(tensor->bytes)), checkpoint.shard_path(name));
  fmt::print(
      "  {} elements: min {:.6g}, max {:.6g}, mean {:.6g}, rms {:.6g}, {} zeros, {} not finite\n",
      s.count, s.minimum, s.maximum, mean, rms, s.zeros, s.not_finite);
  return {};
}

}  // namespace

int run_inspect(const InspectOptions& options) {
  const auto checkpoint = Checkpoint::open(options.model);
  if (!checkpoint.ok()) return report_error(checkpoint.error());
  if (options.tensor.empty()) {
    print_groups(checkpoint.value(), options.json);
    return kExitOk;
  }
  const Result<void> printed = print_tensor(checkpoint.value(), options.tensor, options.json);
  return printed.ok() ? kExitOk : report_error(printed.error());
}

}  // namespace nibble::cli
