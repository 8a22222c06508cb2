// Single tensors through the NVFP4 encoder, special cases included, under the rules of each version
// and device.
#include "base/file.h"
#include "base/json.h"
#include "formats/bf16.h"
#include "formats/nvfp4_encode.h"
#include "formats/safetensors_reader.h"
#include "tests/golden/modelopt_goldens.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

namespace nibble::golden {
namespace {

using formats::Nvfp4Rules;
using formats::SafetensorsReader;
using formats::ScalarDivision;

float float_of(const Json& hex) {
  return std::bit_cast<float>(
      static_cast<uint32_t>(std::stoul(hex.get<std::string>(), nullptr, 16)));
}

bool equal_floats(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

std::string hex_of(float x) {
  return fmt::format("{:08x}", std::bit_cast<uint32_t>(x));
}

// What depends on version and device: 0.44 does not clamp block scales, every later version does;
// four-over-six is ignored before 0.46.
struct Version {
  Nvfp4Rules rules;
  bool knows_four_over_six = true;

  explicit Version(const Json& file) {
    const std::string name = file.at("modelopt");
    rules.clamps_block_scales = !name.starts_with("0.44");
    rules.division = file.at("device") == "cpu" ? ScalarDivision::ieee : ScalarDivision::recip;
    knows_four_over_six = !name.starts_with("0.44") && !name.starts_with("0.45");
  }
};

// One version's tensors: its own file on top of the base.
class Layers {
 public:
  void add(SafetensorsReader file) { files_.push_back(std::move(file)); }
  ConstTensorView find(const std::string& name) const {
    for (auto file = files_.rbegin(); file != files_.rend(); ++file) {
      if (const formats::TensorInfo* tensor = file->find(name)) return file->view(*tensor);
    }
    return {};
  }

 private:
  std::vector<SafetensorsReader> files_;
};

// IEEE half precision, all cases.
float f16_to_f32(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                              : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  if (exponent == 31) value = mantissa == 0 ? INFINITY : NAN;
  return (bits & 0x8000) != 0 ? -value : value;
}

std::vector<float> widened(ConstTensorView view) {
  std::vector<float> out(static_cast<size_t>(view.shape().elements()));
  for (size_t i = 0; i < out.size(); ++i) {
    if (view.dtype() == DType::f32) {
      std::memcpy(&out[i], view.data() + 4 * i, 4);
      continue;
    }
    uint16_t bits = 0;
    std::memcpy(&bits, view.data() + 2 * i, 2);
    out[i] = view.dtype() == DType::f16 ? f16_to_f32(bits) : formats::bf16_to_f32(bits);
  }
  return out;
}

struct Encoded {
  float tensor_scale = 0;
  std::vector<uint8_t> block_scales, codes;
};

Encoded encode(const std::vector<float>& values, size_t columns, const Json& row,
               const Version& version) {
  const Nvfp4Rules& rules = version.rules;
  Encoded out;
  out.codes.resize(values.size() / 2);
  out.block_scales.resize(values.size() / 16);
  const bool is_static = row.at("kind") == "static";
  float norm = 448;
  float global = 0;
  if (is_static) {
    norm = row.at("four_over_six").get<bool>() && version.knows_four_over_six ? 256 : 448;
    global = float_of(row.at("global_amax"));
    out.tensor_scale = formats::divide_scalar(global, 6 * norm, rules.division);
    for (size_t b = 0; b < out.block_scales.size(); ++b) {
      out.block_scales[b] =
          formats::static_block_scale(float_of(row.at("block_amax").at(b)), global, norm, rules);
    }
  } else {
    out.tensor_scale = formats::nvfp4_tensor_scale(float_of(row.at("amax")), rules.division);
  }
  for (size_t first = 0; first < values.size(); first += columns) {
    const std::span<const float> line(values.data() + first, columns);
    uint8_t* codes = out.codes.data() + first / 2;
    uint8_t* scales = out.block_scales.data() + first / 16;
    if (is_static) {
      formats::encode_nvfp4_codes(line, out.tensor_scale, scales, codes);
    } else {
      formats::encode_nvfp4_row(line, out.tensor_scale, rules, codes, scales);
    }
  }
  return out;
}

// The sign of a NaN scale byte depends on the machine that made it.
uint8_t without_nan_sign(uint8_t scale) {
  return (scale & 0x7F) == 0x7F ? 0x7F : scale;
}

// "": equal.
std::string first_difference(const char* what, const std::vector<uint8_t>& mine,
                             ConstTensorView golden, bool scales) {
  if (golden.bytes() != mine.size()) {
    return fmt::format("{}: {} bytes, expected {}", what, mine.size(), golden.bytes());
  }
  for (size_t i = 0; i < mine.size(); ++i) {
    const auto wanted = static_cast<uint8_t>(golden.data()[i]);
    const bool same =
        scales ? without_nan_sign(mine[i]) == without_nan_sign(wanted) : mine[i] == wanted;
    if (!same)
      return fmt::format("{}: byte {} is {:02x}, expected {:02x}", what, i, mine[i], wanted);
  }
  return "";
}

std::string compare(const Encoded& mine, const Layers& layers, const std::string& name) {
  const ConstTensorView scale = layers.find(name + ".weight_scale_2");
  float wanted = 0;
  std::memcpy(&wanted, scale.data(), 4);
  if (!equal_floats(mine.tensor_scale, wanted)) {
    return fmt::format("weight_scale_2: {}, expected {}", hex_of(mine.tensor_scale),
                       hex_of(wanted));
  }
  const std::string scales = first_difference("weight_scale", mine.block_scales,
                                              layers.find(name + ".weight_scale"), true);
  if (!scales.empty()) return scales;
  return first_difference("weight", mine.codes, layers.find(name + ".weight"), false);
}

void run_tensor(const Json& row, const Layers& layers, const Version& version,
                const std::string& group, Report& report) {
  const std::string name = row.at("name");
  if (row.contains("error")) {
    report.skip(group + name, "ModelOpt itself failed: " + row.at("error").get<std::string>());
    return;
  }
  const ConstTensorView input = layers.find(name + ".input");
  for (const char* part : {".input", ".weight", ".weight_scale", ".weight_scale_2"}) {
    if (layers.find(name + part).empty()) {
      report.fail(group + name, "the golden has no tensor " + name + part);
      return;
    }
  }
  const Shape& shape = input.shape();
  const auto columns = static_cast<size_t>(shape[shape.rank() - 1]);
  const std::string difference =
      compare(encode(widened(input), columns, row, version), layers, name);
  if (difference.empty()) {
    report.pass(group + name);
  } else {
    report.fail(group + name, difference);
  }
}

void run_divisions(const Json& divisions, ScalarDivision division, const std::string& group,
                   Report& report) {
  const Json& inputs = divisions.at("amax_bf16_bits");
  for (const auto& [label, divisor] :
       {std::pair("by_2688", 2688.0f), std::pair("by_448", 448.0f), std::pair("by_6", 6.0f)}) {
    const std::string name = group + "scalar_divisions_" + label;
    std::string difference;
    for (size_t i = 0; i < inputs.size() && difference.empty(); ++i) {
      const float amax = formats::bf16_to_f32(inputs[i].get<uint16_t>());
      const float mine = formats::divide_scalar(amax, divisor, division);
      const float wanted = float_of(divisions.at(label).at(i));
      if (equal_floats(mine, wanted)) continue;
      difference =
          fmt::format("{} / {}: {}, expected {}", amax, divisor, hex_of(mine), hex_of(wanted));
    }
    if (difference.empty()) {
      report.pass(name);
    } else {
      report.fail(name, difference);
    }
  }
}

// The file that is no difference to another; the differences lie on top of it.
std::optional<std::string> base_file(const std::string& folder,
                                     const std::vector<std::string>& names) {
  std::optional<std::string> found;
  for (const std::string& name : names) {
    if (!name.ends_with(".safetensors") || name.ends_with(".diff.safetensors")) continue;
    if (found) return std::nullopt;
    found = folder + "/" + name;
  }
  return found;
}

Result<Layers> open_layers(const std::string& folder, const std::string& stem,
                           const std::optional<std::string>& base) {
  Layers layers;
  const std::string own = folder + "/" + stem + ".safetensors";
  if (file_exists(own)) {
    NIBBLE_ASSIGN_OR_RETURN(SafetensorsReader file, SafetensorsReader::open(own));
    layers.add(std::move(file));
    return layers;
  }
  if (!base) {
    return Error{ErrorCode::not_found,
                 folder + ": expected one .safetensors file that is no difference"};
  }
  NIBBLE_ASSIGN_OR_RETURN(SafetensorsReader lower, SafetensorsReader::open(*base));
  layers.add(std::move(lower));
  NIBBLE_ASSIGN_OR_RETURN(SafetensorsReader upper,
                          SafetensorsReader::open(folder + "/" + stem + ".diff.safetensors"));
  layers.add(std::move(upper));
  return layers;
}

}  // namespace

void run_modelopt_tensors(const std::string& folder, const std::string& name, Report& report) {
  const auto names = list_directory(folder);
  if (!names.ok()) {
    report.fail(name, names.error().message);
    return;
  }
  const std::optional<std::string> base = base_file(folder, names.value());
  for (const std::string& file_name : names.value()) {
    if (!file_name.ends_with(".json")) continue;
    const std::string stem = file_name.substr(0, file_name.size() - 5);
    const std::string group = name + "/" + stem + "/";
    const auto file = read_json_file(folder + "/" + file_name);
    const auto layers = open_layers(folder, stem, base);
    if (!file.ok() || !layers.ok()) {
      report.fail(group + "files", !file.ok() ? file.error().message : layers.error().message);
      continue;
    }
    const Version version(file.value());
    for (const Json& row : file.value().at("tensors")) {
      run_tensor(row, layers.value(), version, group, report);
    }
    if (file.value().contains("scalar_divisions")) {
      run_divisions(file.value().at("scalar_divisions"), version.rules.division, group, report);
    }
  }
}

}  // namespace nibble::golden
