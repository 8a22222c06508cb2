#include "quantize/verify.h"

#include "formats/bf16.h"
#include "formats/e2m1.h"
#include "formats/e4m3.h"
#include "formats/nvfp4_encode.h"
#include "formats/nvfp4_search.h"
#include "quantize/export_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <vector>

namespace nibble::quantize {
namespace {

using formats::LinearWeight;
using formats::ScalarDivision;
using formats::WeightFormat;
using model::ExpertWeights;
using model::Member;

// Below this a matrix is not what its source was, whatever the method.
constexpr double kWorstRelativeError = 0.25;

constexpr std::array kDenseMembers = {Member::q_proj,    Member::k_proj,      Member::v_proj,
                                      Member::o_proj,    Member::in_proj_qkv, Member::in_proj_z,
                                      Member::in_proj_b, Member::in_proj_a,   Member::out_proj};

// compressed-tensors divides by scale and global scale where ModelOpt divides by their product: an
// element this near to the middle of two codes (in scales) may be either.
constexpr float kTieWidth = 0x1p-18f;

// Error feedback moves a weight by what its neighbours left over: of the demo model's 5 million
// weights 5 in 1,000 by more than half a scale, 3 in a million by more than 2, none by more than 3.
// One byte in kFeedbackRarity may lie farther: room for larger matrices, not measured there.
constexpr float kFeedbackWidth = 4;
constexpr size_t kFeedbackRarity = 10000;

// One matrix in both checkpoints.
struct Pair {
  std::string stem;
  LinearWeight original, quantized;
  bool packed = false;  // compressed-tensors' spelling
  float amax = 0;

  std::string codes() const { return stem + (packed ? ".weight_packed" : ".weight"); }
  std::string tensor_scale() const {
    return stem + (packed ? ".weight_global_scale" : ".weight_scale_2");
  }
  std::string input_scale() const {
    return stem + (packed ? ".input_global_scale" : ".input_scale");
  }
};

int64_t differing(std::span<const uint8_t> mine, ConstTensorView stored) {
  int64_t count = 0;
  const uint8_t* bytes = stored.as<uint8_t>();
  for (size_t i = 0; i < mine.size(); ++i) count += mine[i] != bytes[i];
  return count;
}

bool same_bits(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

class Verifier {
 public:
  Verifier(device::Device& device, const OpenedModel& original, const OpenedModel& quantized,
           CodeRule codes)
      : device_(device), original_(original), quantized_(quantized), codes_(codes) {}

  Result<VerifyReport> run(const VerifyProgress& progress) {
    NIBBLE_RETURN_IF_ERROR(check_geometry());
    const formats::ModelConfig& config = original_.source.config();
    const auto layers = static_cast<int>(config.num_hidden_layers);
    const int64_t total = layers * (config.num_experts + 1);
    int64_t done = 0;
    for (int layer = 0; layer < layers; ++layer) {
      for (int64_t e = model::kSharedExpert; e < config.num_experts; ++e) {
        if (!progress(done++, total)) return Error{ErrorCode::cancelled, "verifying was stopped"};
        NIBBLE_RETURN_IF_ERROR(check_expert(layer, e));
      }
      NIBBLE_RETURN_IF_ERROR(check_dense(layer));
    }
    if (!config.tie_word_embeddings) {
      NIBBLE_RETURN_IF_ERROR(check_group({Member::lm_head}, kOutsideLayers));
    }
    check_names();
    report_.errors = errors_.groups();
    progress(total, total);
    return std::move(report_);
  }

 private:
  Result<void> check_geometry() const {
    const formats::ModelConfig& a = original_.source.config();
    const formats::ModelConfig& b = quantized_.source.config();
    for (const model::TensorRule& rule : model::tensor_rules()) {
      const Shape wanted = model::expected_shape(rule.member, a);
      const Shape found = model::expected_shape(rule.member, b);
      if (wanted == found && a.layer_types == b.layer_types) continue;
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{}: {} {}, but {} in {}: two different models",
                               quantized_.checkpoint.path(), rule.pattern, to_string(found),
                               to_string(wanted), original_.checkpoint.path())};
    }
    return {};
  }

  Result<void> check_expert(int layer, int64_t index) {
    NIBBLE_ASSIGN_OR_RETURN(const ExpertWeights from, original_.source.expert(layer, index));
    NIBBLE_ASSIGN_OR_RETURN(const ExpertWeights to, quantized_.source.expert(layer, index));
    const bool shared = index == model::kSharedExpert;
    const auto& members = shared ? kSharedMembers : kExpertMembers;
    const auto stem = [&](size_t i) {
      return quantized_.source.prefix().stem(members[i], layer, std::max<int64_t>(index, 0));
    };
    std::vector<Pair> pairs = {make_pair(stem(0), from.gate, to.gate),
                               make_pair(stem(1), from.up, to.up),
                               make_pair(stem(2), from.down, to.down)};
    check_pairs(pairs);
    check_shared_scale({&pairs[0], &pairs[1]});
    // compressed-tensors calibrates every expert for itself; its loaders take the largest.
    if (!shared && !pairs[0].packed) check_common_input(layer, index, to);
    return {};
  }

  Pair make_pair(const std::string& stem, const LinearWeight& from, const LinearWeight& to) const {
    return {stem, from, to, formats::is_packed_dialect(quantized_.checkpoint, stem)};
  }

  Result<void> check_dense(int layer) {
    const auto type = original_.source.config().layer_types[static_cast<size_t>(layer)];
    std::vector<Member> members;
    for (const Member member : kDenseMembers) {
      if (model::occurs_in(model::rule_of(member), type)) members.push_back(member);
    }
    return check_group(members, layer);
  }

  Result<void> check_group(const std::vector<Member>& members, int layer) {
    std::vector<Pair> pairs;
    for (const Member member : members) {
      NIBBLE_ASSIGN_OR_RETURN(const LinearWeight from, original_.source.linear(member, layer));
      NIBBLE_ASSIGN_OR_RETURN(const LinearWeight to, quantized_.source.linear(member, layer));
      pairs.push_back(make_pair(quantized_.source.prefix().stem(member, layer), from, to));
    }
    check_pairs(pairs);
    for (const Member leader : members) {
      std::vector<const Pair*> sharing;
      for (size_t i = 0; i < members.size(); ++i) {
        const bool member_of = scale_leader(members[i]) == leader;
        if (member_of && pairs[i].quantized.format == WeightFormat::nvfp4) {
          sharing.push_back(&pairs[i]);
        }
      }
      check_shared_scale(sharing);
    }
    return {};
  }

  void check_pairs(std::vector<Pair>& pairs) {
    for (Pair& pair : pairs) {
      switch (pair.quantized.format) {
        case WeightFormat::nvfp4:
          ++report_.nvfp4;
          pair.amax = device_.max_magnitude(pair.original.weight);
          check_nvfp4(pair);
          break;
        case WeightFormat::fp8:
          ++report_.fp8;
          check_fp8(pair);
          break;
        default:
          ++report_.bf16;
          check_copy(pair.stem + ".weight", pair.original.weight, pair.quantized.weight);
          continue;
      }
      measure(pair);
    }
    original_.checkpoint.release_pages();
    quantized_.checkpoint.release_pages();
  }

  void check_nvfp4(const Pair& pair) {
    const LinearWeight& to = pair.quantized;
    const auto elements = static_cast<size_t>(to.out_features * to.in_features);
    std::vector<uint8_t> codes(elements / 2);
    std::vector<uint8_t> scales(elements / 16);
    device_.encode_nvfp4(pair.original.weight, to.weight_scale_2, to.weight_scale.as<uint8_t>(),
                         codes.data());
    check_codes(pair, codes);
    device_.quantize_nvfp4(pair.original.weight, to.weight_scale_2, {}, codes.data(),
                           scales.data());
    report_.blocks += static_cast<int64_t>(scales.size());
    report_.max_rule_blocks +=
        static_cast<int64_t>(scales.size()) - differing(scales, to.weight_scale);
    check_zero_scales(pair);
    if (pair.amax > 2688.0f * to.weight_scale_2 * 1.0001f) {
      problem("{}: {}, too small for the largest weight {}: it is clipped", pair.tensor_scale(),
              to.weight_scale_2, pair.amax);
    }
  }

  void check_codes(const Pair& pair, const std::vector<uint8_t>& nearest) {
    if (codes_ == CodeRule::feedback) {
      report_.moved_bytes += differing(nearest, pair.quantized.weight);
      const int64_t far = far_codes(pair, nearest, kFeedbackWidth);
      if (far <= static_cast<int64_t>(nearest.size() / kFeedbackRarity)) return;
      problem(
          "{}: {} of {} bytes are more than {} scales farther from the source than the nearest "
          "codes",
          pair.codes(), far, nearest.size(), kFeedbackWidth);
      return;
    }
    const int64_t wrong = pair.packed ? far_codes(pair, nearest, kTieWidth)
                                      : differing(nearest, pair.quantized.weight);
    if (wrong == 0) return;
    problem("{}: {} of {} bytes are not the nearest codes for their scales", pair.codes(), wrong,
            nearest.size());
  }

  // Bytes whose value lies farther from the source than the nearest code's by more than `width`
  // scales; -0 and 0 are one value.
  static int64_t far_codes(const Pair& pair, const std::vector<uint8_t>& nearest, float width) {
    const LinearWeight& to = pair.quantized;
    const auto columns = static_cast<size_t>(to.in_features);
    const uint8_t* stored = to.weight.as<uint8_t>();
    std::vector<float> row(columns);
    int64_t far = 0;
    for (int64_t r = 0; r < to.out_features; ++r) {
      const size_t first = static_cast<size_t>(r) * columns / 2;
      const std::span mine(nearest.data() + first, columns / 2);
      if (std::memcmp(mine.data(), stored + first, mine.size()) == 0) continue;
      formats::decode_row_f32(pair.original, r, row.data());
      for (size_t i = 0; i < columns; i += 2) {
        const uint8_t a = mine[i / 2], b = stored[first + i / 2];
        if (a == b) continue;
        const float scale =
            to.weight_scale_2 *
            formats::e4m3_to_f32(to.weight_scale.as<uint8_t>()[(first * 2 + i) / 16]);
        const auto is_far = [&](float x, int mine_code, int stored_code) {
          return std::abs(x - scale * formats::e2m1_to_f32(static_cast<uint8_t>(stored_code))) >
                 std::abs(x - scale * formats::e2m1_to_f32(static_cast<uint8_t>(mine_code))) +
                     width * scale;
        };
        far += is_far(row[i], a & 15, b & 15) || is_far(row[i + 1], a >> 4, b >> 4);
      }
    }
    return far;
  }

  // A zero byte decodes to zeros: it must stand for a block that is (nearly) zero.
  void check_zero_scales(const Pair& pair) {
    const LinearWeight& to = pair.quantized;
    const uint8_t* bytes = to.weight_scale.as<uint8_t>();
    std::vector<float> row(static_cast<size_t>(to.in_features));
    int64_t lost = 0;
    for (int64_t i = 0; i < to.weight_scale.shape().elements(); ++i) {
      if ((bytes[i] & 0x7F) != 0) continue;
      const int64_t blocks = to.in_features / 16;
      formats::decode_row_f32(pair.original, i / blocks, row.data());
      const auto block = std::span(row).subspan(static_cast<size_t>(i % blocks * 16), 16);
      lost += formats::max_magnitude(block) > 6 * 0x1p-10f * to.weight_scale_2;
    }
    if (lost > 0) {
      problem("{}.weight_scale: {} blocks with scale 0 that are not zero", pair.stem, lost);
    }
  }

  void check_fp8(const Pair& pair) {
    const LinearWeight& to = pair.quantized;
    std::vector<uint8_t> codes(static_cast<size_t>(to.out_features * to.in_features));
    int64_t fewest = INT64_MAX;
    for (const ScalarDivision division : {ScalarDivision::ieee, ScalarDivision::recip}) {
      device_.quantize_fp8(pair.original.weight, to.weight_scale_2, division, codes.data());
      fewest = std::min(fewest, differing(codes, to.weight));
    }
    if (fewest > 0) {
      problem("{}.weight: {} of {} bytes are not the nearest codes for their scale", pair.stem,
              fewest, codes.size());
    }
  }

  void measure(const Pair& pair) {
    const device::WeightError error = device_.weight_error(pair.original.weight, pair.quantized);
    if (error.magnitude > 0 &&
        !(std::sqrt(error.difference / error.magnitude) < kWorstRelativeError)) {
      problem("{}: relative error {:.3f}, expected below {}", pair.stem,
              std::sqrt(error.difference / error.magnitude), kWorstRelativeError);
    }
    errors_.add(pair.stem, error);
  }

  // Matrices that loaders fuse: one tensor scale, one input scale (nvfp4.md 1.7).
  void check_shared_scale(const std::vector<const Pair*>& sharing) {
    for (const Pair* pair : sharing) {
      const Pair& first = *sharing.front();
      if (pair->quantized.format != WeightFormat::nvfp4) continue;
      if (!same_bits(pair->quantized.weight_scale_2, first.quantized.weight_scale_2)) {
        problem("{}: {}, expected {} as {}: loaders fuse the two", pair->tensor_scale(),
                pair->quantized.weight_scale_2, first.quantized.weight_scale_2, first.stem);
      }
      if (!same_bits(pair->quantized.input_scale, first.quantized.input_scale)) {
        problem("{}: {}, expected {} as {}: loaders fuse the two", pair->input_scale(),
                pair->quantized.input_scale, first.quantized.input_scale, first.stem);
      }
    }
  }

  // All experts of a layer carry one input scale per projection, or none do.
  void check_common_input(int layer, int64_t index, const ExpertWeights& expert) {
    if (index == 0) first_inputs_ = {expert.gate.input_scale, expert.down.input_scale};
    if (same_bits(first_inputs_.first, expert.gate.input_scale) &&
        same_bits(first_inputs_.second, expert.down.input_scale)) {
      return;
    }
    problem("layer {}: expert {} has other input scales than expert 0", layer, index);
  }

  // Tensors outside the linear layers, by name, and names only one side has.
  void check_names() {
    for (const std::string_view name : quantized_.checkpoint.names()) {
      if (is_linear(name, quantized_.source)) continue;
      check_copy(std::string(name), original_.checkpoint.view(name),
                 quantized_.checkpoint.view(name));
    }
    for (const std::string_view name : original_.checkpoint.names()) {
      if (is_linear(name, original_.source) || quantized_.checkpoint.find(name) != nullptr)
        continue;
      problem("{}: in the source, but missing here", name);
    }
  }

  // Weights and scales of linear layers and banks: checked above or by opening the model.
  static bool is_linear(std::string_view name, const model::CheckpointSource& source) {
    if (model::is_other_part(name)) return false;
    if (model::is_kv_scale(name)) return true;
    const auto parsed = model::parse_name(name, source.prefix());
    if (!parsed) return false;
    const bool own_pass = std::find(kDenseMembers.begin(), kDenseMembers.end(), parsed->member) !=
                              kDenseMembers.end() ||
                          parsed->member == Member::lm_head || parsed->expert >= 0 ||
                          parsed->member == Member::shared_gate ||
                          parsed->member == Member::shared_up ||
                          parsed->member == Member::shared_down;
    return own_pass || model::rule_of(parsed->member).kind == model::TensorKind::bank;
  }

  void check_copy(const std::string& name, ConstTensorView from, ConstTensorView to) {
    if (from.empty()) {
      problem("{}: not in the source", name);
      return;
    }
    bool same = from.shape() == to.shape();
    if (same && from.dtype() == to.dtype()) {
      same = std::memcmp(from.data(), to.data(), from.bytes()) == 0;
    } else {
      same = same && from.dtype() == DType::f32 && to.dtype() == DType::bf16;
      for (int64_t i = 0; same && i < from.shape().elements(); ++i) {
        float value = 0;
        uint16_t bits = 0;
        std::memcpy(&value, from.data() + 4 * i, sizeof value);
        std::memcpy(&bits, to.data() + 2 * i, sizeof bits);
        same = bits == formats::bf16_from_f32(value);
      }
    }
    if (same) {
      ++report_.copies;
    } else {
      problem("{}: is not the source's tensor", name);
    }
  }

  template <typename... Values>
  void problem(fmt::format_string<Values...> text, Values&&... values) {
    report_.problems.add(fmt::format(text, std::forward<Values>(values)...));
  }

  device::Device& device_;
  OpenedModel original_, quantized_;
  CodeRule codes_;
  VerifyReport report_;
  ErrorLog errors_;
  std::pair<float, float> first_inputs_;
};

}  // namespace

Result<VerifyReport> verify(device::Device& device, const OpenedModel& original,
                            const OpenedModel& quantized, CodeRule codes,
                            const VerifyProgress& progress) {
  return Verifier(device, original, quantized, codes).run(progress);
}

}  // namespace nibble::quantize
