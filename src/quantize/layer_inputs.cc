#include "quantize/layer_inputs.h"

#include "base/check.h"
#include "formats/bf16.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace nibble::quantize {
namespace {

using model::Member;

constexpr std::array<std::string_view, 6> kTaps = {"in_norm",   "attn.gated", "gdn.normed",
                                                   "post_norm", "moe.slots",  "moe.shared_slots"};

bool is_routed(Member member) {
  return member == Member::expert_gate || member == Member::expert_up ||
         member == Member::expert_down;
}

std::string_view tap_of(Member member) {
  switch (member) {
    case Member::expert_gate:
    case Member::expert_up:
    case Member::shared_gate:
    case Member::shared_up:
      return "post_norm";
    case Member::expert_down:
      return "moe.slots";
    case Member::shared_down:
      return "moe.shared_slots";
    case Member::o_proj:
      return "attn.gated";
    case Member::out_proj:
      return "gdn.normed";
    default:
      return "in_norm";
  }
}

}  // namespace

LayerInputs::LayerInputs(const formats::ModelConfig& config, std::string path)
    : path_(std::move(path)),
      slots_(config.num_experts_per_tok),
      choices_(static_cast<size_t>(config.num_experts)) {}

Result<void> LayerInputs::add(std::string_view name, ConstTensorView tensor) {
  if (name == "moe.experts") {
    const int32_t* chosen = tensor.as<int32_t>();
    experts_.assign(chosen, chosen + tensor.shape().elements());
  }
  if (name == "moe.weights") add_choices(tensor);
  const bool kept = std::find(kTaps.begin(), kTaps.end(), name) != kTaps.end();
  return kept ? add_rows(name, tensor) : Result<void>();
}

Result<void> LayerInputs::add_rows(std::string_view name, ConstTensorView tensor) {
  Stream& stream = streams_[std::string(name)];
  const int64_t columns = tensor.row_elements();
  if (!stream.file.is_open()) {
    stream.columns = columns;
    stream.is_bf16 = tensor.dtype() == DType::bf16;
    const size_t row_bytes = static_cast<size_t>(columns) * dtype_bytes(tensor.dtype());
    NIBBLE_ASSIGN_OR_RETURN(stream.file,
                            RowFile::create_unnamed(path_ + "-" + std::string(name), row_bytes));
  }
  NIBBLE_RETURN_IF_ERROR(stream.file.write(stream.rows, {tensor.data(), tensor.bytes()}));
  stream.rows += tensor.rows();
  if (name == "in_norm") tokens_ = stream.rows;
  return {};
}

// The rows of this step are the last ones added to the MLP's input.
void LayerInputs::add_choices(ConstTensorView weights) {
  const float* values = weights.as<float>();
  const auto count = static_cast<int64_t>(experts_.size());
  const int64_t first = streams_.at("post_norm").rows * slots_ - count;
  const float noise = weight_of_token(tokens_ - 1);
  for (int64_t i = 0; i < count; ++i) {
    Choices& choices = choices_[static_cast<size_t>(experts_[static_cast<size_t>(i)])];
    choices.slots.push_back(first + i);
    choices.weights.push_back(values[i] * values[i] * noise);
  }
}

const LayerInputs::Stream* LayerInputs::stream_of(Member member) const {
  const auto it = streams_.find(tap_of(member));
  return it == streams_.end() ? nullptr : &it->second;
}

const LayerInputs::Choices* LayerInputs::choices_of(Member member, int64_t expert) const {
  return is_routed(member) ? &choices_.at(static_cast<size_t>(expert)) : nullptr;
}

int64_t LayerInputs::rows(Member member, int64_t expert) const {
  const Choices* choices = choices_of(member, expert);
  if (choices != nullptr) return static_cast<int64_t>(choices->slots.size());
  const Stream* stream = stream_of(member);
  return stream == nullptr ? 0 : stream->rows;
}

Result<void> LayerInputs::read_rows(const Stream& stream, std::span<const int64_t> numbers,
                                    std::span<float> out) const {
  const auto columns = static_cast<size_t>(stream.columns);
  std::vector<std::byte> stored(stream.file.row_bytes());
  for (size_t i = 0; i < numbers.size(); ++i) {
    float* row = out.data() + i * columns;
    NIBBLE_RETURN_IF_ERROR(stream.file.read(numbers[i], stored));
    if (!stream.is_bf16) {
      std::memcpy(row, stored.data(), stored.size());
      continue;
    }
    for (size_t k = 0; k < columns; ++k) {
      uint16_t bits = 0;
      std::memcpy(&bits, stored.data() + 2 * k, sizeof bits);
      row[k] = formats::bf16_to_f32(bits);
    }
  }
  return {};
}

Result<void> LayerInputs::for_each_chunk(
    Member member, int64_t expert,
    const std::function<Result<void>(const InputChunk&)>& body) const {
  const int64_t total = rows(member, expert);
  if (total == 0) return {};
  const Stream& stream = *stream_of(member);
  const Choices* choices = choices_of(member, expert);
  std::vector<int64_t> numbers;
  std::vector<float> values, weights;
  for (int64_t first = 0; first < total; first += kInputChunkRows) {
    const int64_t count = std::min(kInputChunkRows, total - first);
    numbers.clear();
    weights.clear();
    for (int64_t i = first; i < first + count; ++i) {
      const int64_t slot = choices == nullptr ? i : choices->slots[static_cast<size_t>(i)];
      // Gate and up read the token's row, down the slot's own.
      const bool by_token = choices != nullptr && member != Member::expert_down;
      numbers.push_back(by_token ? slot / slots_ : slot);
      weights.push_back(choices == nullptr ? weight_of_token(i)
                                           : choices->weights[static_cast<size_t>(i)]);
    }
    values.resize(static_cast<size_t>(count * stream.columns));
    NIBBLE_RETURN_IF_ERROR(read_rows(stream, numbers, values));
    NIBBLE_RETURN_IF_ERROR(body({values, weights}));
  }
  return {};
}

}  // namespace nibble::quantize
