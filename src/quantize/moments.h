// Second moments of linear layers' inputs, in blocks of 16 columns: what the hessian scale search
// weighs errors with (spec nvfp4.md 4.5).
//
// A routed expert sees few tokens, so its moments are drawn towards those of the whole layer; one
// that saw none takes the layer's. One layer is in memory at a time: 48 MiB for the 35B model.
#pragma once

#include "base/result.h"
#include "formats/safetensors_reader.h"
#include "formats/safetensors_writer.h"
#include "model/tensor_rules.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nibble::quantize {

/// Sum of g x x^T over inputs x, only the 16 x 16 blocks on the diagonal.
class BlockMoments {
 public:
  BlockMoments() = default;
  /// columns: a multiple of 16; 0 for none.
  explicit BlockMoments(int64_t columns)
      : columns_(columns), sums_(static_cast<size_t>(columns) * 16) {}

  /// Adds one input of `columns` values with weight g >= 0.
  void add(std::span<const float> x, double g);

  int64_t columns() const { return columns_; }
  double weight() const { return weight_; }
  /// [columns / 16][16][16]
  const std::vector<float>& sums() const { return sums_; }

 private:
  friend struct LayerMoments;
  int64_t columns_ = 0;
  double weight_ = 0;
  std::vector<float> sums_;
};

/// The inputs of one layer's linear layers. A layer that has no such input leaves it empty.
struct LayerMoments {
  BlockMoments mixer_in;  // q, k, v, or in_proj_*; the head's input where this is no layer
  BlockMoments mixer_out;  // o_proj or out_proj
  BlockMoments mlp_in;  // every token once: the shared expert, and the prior of the routed ones
  BlockMoments shared_down;
  BlockMoments experts_down;  // over all experts: their prior
  std::vector<BlockMoments> expert_in, expert_down;  // g: square of the router's weight

  /// Mean of x x^T for a member's input, [columns / 16][16][16], drawn towards the layer's for a
  /// routed expert and damped by 1 % of each block's mean diagonal. Empty when nothing was seen.
  std::vector<float> mean(model::Member member, int64_t expert) const;

  /// As tensors of a file, their names beginning with `prefix`: what to declare, what to append,
  /// and back again with the same bits (corrupt when one is incomplete; empty when there are none).
  std::vector<formats::TensorSpec> specs(const std::string& prefix) const;
  Result<void> append(formats::SafetensorsWriter& writer, const std::string& prefix) const;
  static Result<LayerMoments> read(const formats::SafetensorsReader& file,
                                   const std::string& prefix);
};

}  // namespace nibble::quantize
