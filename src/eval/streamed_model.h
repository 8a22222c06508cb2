// StreamedModel: many sequences through a model layer by layer, with one layer's weights in memory.
//
// The hidden rows of all sequences stay in host memory; each layer runs them in packed steps, from
// an empty state. The caller loads the layers and may give one LoadedLayer to several streams. Rows
// are numbered sequence by sequence: row r of sequence i is first_row(i) + r.
#pragma once

#include "base/result.h"
#include "device/device.h"
#include "eval/kld/layer_errors.h"
#include "eval/sequences.h"
#include "eval/step_pieces.h"
#include "model/qwen3_5_moe/decoder.h"
#include "model/weight_source.h"
#include "model/weights.h"
#include "runtime/cache_pools.h"
#include "runtime/step_buffers.h"
#include "tensor/tensor.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace nibble::eval {

struct StreamOptions {
  DType kv_dtype = DType::bf16;
  bool single_rows = false;  // token by token, in decode form
  bool keeps_routing = false;  // runs the composed blocks with an observer
  int32_t rows_per_step = 1024;  // >= 64
  int32_t sequences_per_step = 16;
};

class StreamedModel {
 public:
  /// Device and source are used and outlive the stream. longest: tokens of the longest sequence.
  /// The device's workspace must hold steps of rows_per_step rows. Errors: exhausted.
  static Result<std::unique_ptr<StreamedModel>> create(device::Device& device,
                                                       model::WeightSource& source,
                                                       const StreamOptions& options,
                                                       int32_t longest);
  ~StreamedModel();

  /// Begins with these sequences: their embeddings become the hidden rows. They outlive the layers.
  Result<void> start(std::span<const ScoredSequence> sequences);

  /// Runs all rows through one layer of this model.
  void run_layer(const model::LayerWeights& weights);

  /// Logits of hidden rows `rows` (at most rows_per_step) after the last layer; out: [rows][V].
  /// Errors: exhausted.
  Result<void> head(const device::HeadWeights& weights, std::span<const int64_t> rows,
                    std::span<float> out);

  /// [rows][H] f32.
  ConstTensorView hidden() const { return std::as_const(hidden_).view(); }
  int64_t first_row(size_t sequence) const { return first_rows_[sequence]; }
  /// Of the last layer that ran; needs keeps_routing.
  RoutingRows routing() const;

  device::Device& device() { return device_; }
  model::WeightSource& source() { return source_; }

 private:
  class RoutingTap;

  StreamedModel(device::Device& device, model::WeightSource& source, const StreamOptions& options);
  Result<void> allocate(int32_t longest);
  Result<void> embed();
  const device::StepPlan& load_step(const StepPieces& pieces);
  void upload_rows(const StepPieces& pieces);
  void download_rows(const StepPieces& pieces);
  std::span<std::byte> host_rows(const StepPiece& piece);

  device::Device& device_;
  model::WeightSource& source_;
  const StreamOptions options_;
  model::Decoder decoder_;
  runtime::StepCapacity capacity_;
  std::unique_ptr<StepWriter> writer_;
  std::unique_ptr<runtime::StepBuffers> buffers_;
  std::unique_ptr<runtime::CachePools> caches_;  // of one layer of each kind
  std::unique_ptr<device::Memory> hidden_memory_, logits_memory_;
  std::unique_ptr<RoutingTap> tap_;

  std::span<const ScoredSequence> sequences_;
  std::vector<StepPieces> steps_;
  std::vector<int64_t> first_rows_;
  Tensor hidden_;
};

}  // namespace nibble::eval
