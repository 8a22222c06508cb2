#include "tests/golden/modelopt_searches.h"

#include "base/file.h"
#include "formats/bf16.h"
#include "formats/linear_weight.h"
#include "formats/nvfp4_encode.h"
#include "formats/nvfp4_search.h"
#include "formats/safetensors_reader.h"
#include "quantize/quantizer_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

namespace nibble::golden {
namespace {

using formats::LinearWeight;
using model::Member;

constexpr double kLossFactor = 1.001;

Result<LinearWeight> source_matrix(model::CheckpointSource& source,
                                   const model::ParsedName& parsed) {
  const bool shared = parsed.member == Member::shared_gate || parsed.member == Member::shared_up ||
                      parsed.member == Member::shared_down;
  if (!shared && parsed.expert < 0) return source.linear(parsed.member, parsed.layer);
  NIBBLE_ASSIGN_OR_RETURN(
      const model::ExpertWeights expert,
      source.expert(parsed.layer, shared ? model::kSharedExpert : parsed.expert));
  switch (parsed.member) {
    case Member::expert_gate:
    case Member::shared_gate:
      return expert.gate;
    case Member::expert_up:
    case Member::shared_up:
      return expert.up;
    default:
      return expert.down;
  }
}

// One matrix of the case, all rows widened.
struct Searched {
  std::vector<float> weights;
  size_t columns = 0;
  std::vector<float> moments;  // [columns / 16][16][16], or none

  size_t rows() const { return weights.size() / columns; }
  std::span<const float> row(size_t r) const {
    return std::span(weights).subspan(r * columns, columns);
  }
  const float* block_moments(size_t block) const {
    return moments.empty() ? nullptr : moments.data() + block * 256;
  }
};

double loss_of(const Searched& matrix, float tensor_scale, const uint8_t* scales) {
  double loss = 0;
  const size_t blocks = matrix.columns / 16;
  for (size_t r = 0; r < matrix.rows(); ++r) {
    for (size_t b = 0; b < blocks; ++b) {
      loss += formats::nvfp4_block_loss(matrix.row(r).subspan(b * 16, 16), tensor_scale,
                                        scales[r * blocks + b], matrix.block_moments(b));
    }
  }
  return loss;
}

class SearchComparison {
 public:
  SearchComparison(const SearchCase& wanted, const formats::Checkpoint& mine,
                   model::CheckpointSource& source, const formats::SafetensorsReader& golden,
                   Report& report)
      : wanted_(wanted), mine_(mine), source_(source), golden_(golden), report_(report) {}

  Result<void> read_moments() {
    if (wanted_.method != formats::ScaleMethod::hessian) return {};
    NIBBLE_ASSIGN_OR_RETURN(
        auto file, formats::SafetensorsReader::open(wanted_.folder + "/hessian.safetensors"));
    moments_.emplace(std::move(file));
    return {};
  }

  void run(const std::string& stem) {
    const auto parsed = model::parse_name(stem + ".weight", source_.prefix());
    NIBBLE_CHECK(parsed.has_value(), "a stored matrix without a rule", stem);
    const auto original = source_matrix(source_, *parsed);
    if (!original.ok()) {
      report_.fail(wanted_.name + "/" + stem, original.error().message);
      return;
    }
    Searched matrix;
    matrix.columns = static_cast<size_t>(original.value().in_features);
    matrix.weights.resize(static_cast<size_t>(original.value().out_features) * matrix.columns);
    for (size_t r = 0; r < matrix.rows(); ++r) {
      formats::decode_row_f32(original.value(), static_cast<int64_t>(r),
                              matrix.weights.data() + r * matrix.columns);
    }
    const ConstTensorView scales = view(stem + ".weight_scale");
    float tensor_scale = 0;
    std::memcpy(&tensor_scale, view(stem + ".weight_scale_2").data(), sizeof tensor_scale);
    compare_codes(stem, matrix, tensor_scale, scales);
    if (find_moments(*parsed, matrix)) compare_loss(stem, matrix, tensor_scale, scales);
  }

 private:
  ConstTensorView view(const std::string& name) const {
    const formats::TensorInfo* tensor = golden_.find(name);
    NIBBLE_CHECK(tensor != nullptr, "the golden has no", name);
    return golden_.view(*tensor);
  }

  void compare_codes(const std::string& stem, const Searched& matrix, float tensor_scale,
                     ConstTensorView scales) {
    const ConstTensorView golden = view(stem + ".weight");
    std::vector<uint8_t> codes(matrix.weights.size() / 2);
    for (size_t r = 0; r < matrix.rows(); ++r) {
      formats::encode_nvfp4_codes(matrix.row(r), tensor_scale,
                                  scales.as<uint8_t>() + r * matrix.columns / 16,
                                  codes.data() + r * matrix.columns / 2);
    }
    const std::string name = wanted_.name + "/codes/" + stem;
    if (golden.bytes() == codes.size() &&
        std::memcmp(golden.data(), codes.data(), codes.size()) == 0) {
      report_.pass(name);
    } else {
      report_.fail(name, "the codes are not those of the stored scales");
    }
  }

  // False when the case has no use for this matrix's loss: second moments not stored, or all zero.
  bool find_moments(const model::ParsedName& parsed, Searched& matrix) const {
    if (!moments_) return true;
    const formats::TensorInfo* tensor = moments_->find(quantize::weight_quantizer(
        source_.prefix(), parsed.member, parsed.layer, std::max<int64_t>(parsed.expert, 0)));
    if (tensor == nullptr) return false;
    const ConstTensorView stored = moments_->view(*tensor);
    matrix.moments.resize(static_cast<size_t>(stored.shape().elements()));
    std::memcpy(matrix.moments.data(), stored.data(), stored.bytes());
    return std::any_of(matrix.moments.begin(), matrix.moments.end(),
                       [](float moment) { return moment != 0; });
  }

  void compare_loss(const std::string& stem, const Searched& matrix, float tensor_scale,
                    ConstTensorView scales) {
    std::vector<uint8_t> found(matrix.weights.size() / 16);
    const ConstTensorView exported = mine_.view(stem + ".weight_scale");
    NIBBLE_CHECK(exported.bytes() == found.size(), "our block scales", stem);
    std::memcpy(found.data(), exported.data(), found.size());
    if (moments_) search(matrix, tensor_scale, found);
    const double theirs = loss_of(matrix, tensor_scale, scales.as<uint8_t>());
    const double ours = loss_of(matrix, tensor_scale, found.data());
    const std::string name = wanted_.name + "/loss/" + stem;
    const double ratio = theirs > 0 ? ours / theirs : (ours > 0 ? INFINITY : 1.0);
    if (ratio <= kLossFactor) {
      report_.pass(name, ratio, "ours/theirs");
    } else {
      report_.fail(name, fmt::format("loss {}, ModelOpt's {}", ours, theirs), ratio);
    }
  }

  // Under the stored second moments, which are not those our export has.
  void search(const Searched& matrix, float tensor_scale, std::vector<uint8_t>& scales) const {
    formats::ScaleSearch search{wanted_.method, 0, wanted_.rules, matrix.moments.data()};
    // The maximum that has this tensor scale: the search derives the scale from it.
    search.amax = tensor_scale * 2688.0f;
    search.rules.division = formats::ScalarDivision::ieee;
    for (size_t r = 0; r < matrix.rows(); ++r) {
      formats::search_nvfp4_scales(matrix.row(r), search, scales.data() + r * matrix.columns / 16);
    }
  }

  const SearchCase& wanted_;
  const formats::Checkpoint& mine_;
  model::CheckpointSource& source_;
  const formats::SafetensorsReader& golden_;
  Report& report_;
  std::optional<formats::SafetensorsReader> moments_;
};

}  // namespace

void compare_searched(const SearchCase& wanted, const formats::Checkpoint& mine,
                      model::CheckpointSource& source, Report& report) {
  const auto golden = formats::SafetensorsReader::open(wanted.folder + "/export.safetensors");
  if (!golden.ok()) {
    report.fail(wanted.name + "/codes", golden.error().message);
    return;
  }
  SearchComparison comparison(wanted, mine, source, golden.value(), report);
  if (const auto read = comparison.read_moments(); !read.ok()) {
    report.fail(wanted.name + "/loss", read.error().message);
    return;
  }
  for (const formats::TensorInfo& tensor : golden.value().tensors()) {
    constexpr std::string_view kScale = ".weight_scale";
    if (!tensor.name.ends_with(kScale) || tensor.dtype != DType::f8_e4m3) continue;
    comparison.run(tensor.name.substr(0, tensor.name.size() - kScale.size()));
  }
}

}  // namespace nibble::golden
