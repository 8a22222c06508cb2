// LayerInputs: the rows that went into one layer's linear layers, on disk, for methods that need
// more of them than blocks of second moments (whole Hessians).
//
// Rows are kept once per input: every expert reads the MLP's rows through the router's choices, so
// memory stays bounded by one chunk of rows. One layer at a time; the files have no name and
// vanish with this object, or with the process.
#pragma once

#include "base/result.h"
#include "formats/hf_config.h"
#include "model/tensor_rules.h"
#include "quantize/row_file.h"
#include "tensor/tensor_view.h"

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::quantize {

/// Up to kInputChunkRows inputs of a matrix. rows: [n][K] f32; weights: [n], the square of the
/// router's weight for a routed expert, else 1; of noise times kNoiseWeight.
struct InputChunk {
  std::span<const float> rows;
  std::span<const float> weights;
};
inline constexpr int64_t kInputChunkRows = 512;

/// What an input of a noise token counts beside one of the calibration text (docs/quality.md).
inline constexpr float kNoiseWeight = 4;

/// Move-only. Filled by one thread (add), read by any.
class LayerInputs {
 public:
  LayerInputs() = default;
  /// path: where the files lie while they are made.
  LayerInputs(const formats::ModelConfig& config, std::string path);

  /// A tap of the step that is running ("in_norm", "moe.experts", ...), rows in the order of the
  /// tokens; other names are ignored.
  Result<void> add(std::string_view name, ConstTensorView tensor);

  /// Rows from here on are of noise tokens.
  void start_noise() { first_noise_ = tokens_; }

  int64_t num_experts() const { return static_cast<int64_t>(choices_.size()); }
  /// How many inputs the matrix got.
  int64_t rows(model::Member member, int64_t expert) const;
  /// Calls body with all of them, in the order of the tokens; an error of body ends it.
  Result<void> for_each_chunk(model::Member member, int64_t expert,
                              const std::function<Result<void>(const InputChunk&)>& body) const;

 private:
  // One input: rows of K values, f32 or bf16 as the arithmetic had them.
  struct Stream {
    RowFile file;
    int64_t columns = 0;
    int64_t rows = 0;
    bool is_bf16 = false;
  };
  // Where an expert was chosen: row * slots + slot of each, and the weights squared.
  struct Choices {
    std::vector<int64_t> slots;
    std::vector<float> weights;
  };

  const Stream* stream_of(model::Member member) const;
  const Choices* choices_of(model::Member member, int64_t expert) const;
  Result<void> add_rows(std::string_view name, ConstTensorView tensor);
  void add_choices(ConstTensorView weights);
  float weight_of_token(int64_t token) const {
    return first_noise_ >= 0 && token >= first_noise_ ? kNoiseWeight : 1.0f;
  }
  Result<void> read_rows(const Stream& stream, std::span<const int64_t> numbers,
                         std::span<float> out) const;

  std::string path_;
  int64_t slots_ = 0;  // experts per token
  std::map<std::string, Stream, std::less<>> streams_;  // by tap
  int64_t tokens_ = 0;
  int64_t first_noise_ = -1;
  std::vector<int32_t> experts_;  // of the step that is running
  std::vector<Choices> choices_;  // by expert
};

}  // namespace nibble::quantize
