#include "quantize/calibration.h"

#include "device/observer.h"
#include "formats/bf16.h"
#include "formats/nvfp4_encode.h"
#include "model/loaded_model.h"
#include "model/qwen3_5_moe/decoder.h"
#include "quantize/layer_caches.h"
#include "tensor/tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace nibble::quantize {
namespace {

// Takes the maxima off the taps of the composed blocks.
class MaximaObserver : public device::Observer {
 public:
  MaximaObserver(const formats::ModelConfig& config, const model::NamePrefix& prefix,
                 CalibrationResult& result)
      : config_(config), prefix_(prefix), result_(result) {}

  void start_layer(int layer) {
    names_ =
        std::make_unique<QuantizerNames>(prefix_.text + "layers." + std::to_string(layer) + ".");
    seen_.assign(static_cast<size_t>(config_.num_experts), false);
  }
  void finish_layer() { result_.experts_seen += std::count(seen_.begin(), seen_.end(), true); }

  void observe(int layer, std::string_view name, ConstTensorView tensor) override {
    if (layer < 0) return;
    if (name == "post_norm") {
      const float magnitude = largest(tensor);
      raise({&names_->experts_gate_up_input, &names_->shared_gate_input, &names_->shared_up_input},
            magnitude);
    } else if (name == "moe.slots") {
      raise({&names_->experts_down_input}, largest(tensor));
    } else if (name == "moe.shared_slots") {
      raise({&names_->shared_down_input}, largest(tensor));
    } else if (name == "attn.k") {
      raise({&names_->k}, largest(tensor));
    } else if (name == "attn.v") {
      raise({&names_->v}, largest(tensor));
    } else if (name == "moe.experts") {
      for (int64_t i = 0; i < tensor.shape().elements(); ++i) {
        seen_[static_cast<size_t>(tensor.as<int32_t>()[i])] = true;
      }
    }
  }

 private:
  static float largest(ConstTensorView tensor) {
    float out = 0.0f;
    for (int64_t i = 0; i < tensor.shape().elements(); ++i) {
      const float value = tensor.dtype() == DType::bf16
                              ? formats::bf16_to_f32(tensor.as<uint16_t>()[i])
                              : tensor.as<float>()[i];
      out = formats::max_or_nan(out, std::fabs(value));
    }
    return out;
  }
  void raise(std::initializer_list<const std::string*> quantizers, float magnitude) {
    for (const std::string* quantizer : quantizers) result_.maxima.raise(*quantizer, magnitude);
  }

  const formats::ModelConfig& config_;
  const model::NamePrefix& prefix_;
  CalibrationResult& result_;
  std::unique_ptr<QuantizerNames> names_;
  std::vector<bool> seen_;
};

// One sequence as a step of its own.
struct SequenceRun {
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;  // [tokens][3]
  std::vector<int32_t> row_sequence;  // zeros
  device::SequenceStep step;
  Tensor hidden;

  SequenceRun(const std::vector<int32_t>& ids, int64_t hidden_size)
      : tokens(ids),
        row_sequence(ids.size(), 0),
        step{device::SequenceKind::prefill,
             0,
             static_cast<int32_t>(ids.size()),
             static_cast<int32_t>(ids.size()),
             device::kZeroState,
             0},
        hidden(DType::f32, Shape{static_cast<int64_t>(ids.size()), hidden_size}) {
    for (int32_t i = 0; i < step.q_len; ++i) positions.insert(positions.end(), 3, i);
  }

  device::StepPlan plan(const std::vector<int32_t>& pages, device::Observer* observer) const {
    device::StepPlan out;
    out.num_rows = step.q_len;
    out.num_sequences = 1;
    out.page_table_stride = static_cast<int32_t>(pages.size());
    out.token_ids = tokens.data();
    out.positions = positions.data();
    out.row_sequence = row_sequence.data();
    out.sequences = &step;
    out.page_table = pages.data();
    out.observer = observer;
    return out;
  }
};

Result<std::vector<SequenceRun>> make_runs(const formats::ModelConfig& config,
                                           const std::vector<std::vector<int32_t>>& sequences) {
  std::vector<SequenceRun> runs;
  for (size_t i = 0; i < sequences.size(); ++i) {
    NIBBLE_CHECK(!sequences[i].empty(), "empty calibration sequence", i);
    for (const int32_t token : sequences[i]) {
      if (token < 0 || token >= config.vocab_size) {
        return Error{ErrorCode::invalid_argument,
                     fmt::format("calibration sequence {}: token id {}, expected 0 to {}", i, token,
                                 config.vocab_size - 1)};
      }
    }
    runs.emplace_back(sequences[i], config.hidden_size);
  }
  return runs;
}

}  // namespace

Result<CalibrationResult> calibrate(device::Device& device, model::CheckpointSource& source,
                                    const std::vector<std::vector<int32_t>>& sequences,
                                    const CalibrationProgress& progress) {
  const formats::ModelConfig& config = source.config();
  CalibrationResult result;
  NIBBLE_ASSIGN_OR_RETURN(std::vector<SequenceRun> runs, make_runs(config, sequences));
  int64_t longest = 0;
  for (const SequenceRun& run : runs) {
    result.tokens += run.step.q_len;
    longest = std::max<int64_t>(longest, run.step.q_len);
  }
  result.experts_total = config.num_hidden_layers * config.num_experts;
  NIBBLE_RETURN_IF_ERROR(device.set_workspace(model::workspace_spec(config, longest)));
  NIBBLE_ASSIGN_OR_RETURN(const LayerCaches caches, LayerCaches::create(device, config, longest));

  model::Decoder decoder(device, model::Placement());
  MaximaObserver observer(config, source.prefix(), result);
  model::ModelWeights embedding;
  NIBBLE_ASSIGN_OR_RETURN(embedding.embed_tokens, source.embedding());
  NIBBLE_CHECK(device.shares_host_memory(), "calibration reads the embedding table in place");
  for (SequenceRun& run : runs)
    decoder.embed(run.plan(caches.pages(), nullptr), embedding, run.hidden.view());

  const auto layers = static_cast<int>(config.num_hidden_layers);
  for (int i = 0; i < layers; ++i) {
    if (!progress(i, layers)) return Error{ErrorCode::cancelled, "calibration was interrupted"};
    NIBBLE_ASSIGN_OR_RETURN(const model::LoadedLayer layer,
                            model::LoadedLayer::load(device, source, i));
    observer.start_layer(i);
    for (SequenceRun& run : runs) {
      decoder.layer(run.plan(caches.pages(), &observer), layer.weights(), caches.cache(),
                    run.hidden.view());
    }
    observer.finish_layer();
  }
  device.synchronize();
  progress(layers, layers);
  return result;
}

}  // namespace nibble::quantize
