#include "quantize/calibration.h"

#include "model/loaded_model.h"
#include "model/qwen3_5_moe/decoder.h"
#include "quantize/input_observer.h"
#include "quantize/layer_caches.h"
#include "quantize/member_table.h"
#include "tensor/tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nibble::quantize {
namespace {

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

// The state of a calibration between its layers.
class Calibrator {
 public:
  Calibrator(device::Device& device, model::CheckpointSource& source,
             const CalibrationRequest& request)
      : device_(device),
        source_(source),
        request_(request),
        decoder_(device, model::Placement()),
        observer_(source.config(), source.prefix(), result_.maxima, request.moments != nullptr) {}

  Result<CalibrationResult> run(const CalibrationProgress& progress) {
    NIBBLE_RETURN_IF_ERROR(prepare());
    const auto layers = static_cast<int>(source_.config().num_hidden_layers);
    for (int i = 0; i < layers; ++i) {
      if (!progress(i, layers)) return Error{ErrorCode::cancelled, "calibration was interrupted"};
      NIBBLE_RETURN_IF_ERROR(run_layer(i));
    }
    NIBBLE_RETURN_IF_ERROR(run_head());
    progress(layers, layers);
    return std::move(result_);
  }

 private:
  Result<void> prepare() {
    const formats::ModelConfig& config = source_.config();
    NIBBLE_ASSIGN_OR_RETURN(runs_, make_runs(config, request_.sequences));
    int64_t longest = 0;
    for (const SequenceRun& run : runs_) {
      result_.tokens += run.step.q_len;
      longest = std::max<int64_t>(longest, run.step.q_len);
    }
    result_.experts_total = config.num_hidden_layers * config.num_experts;
    NIBBLE_RETURN_IF_ERROR(device_.set_workspace(model::workspace_spec(config, longest)));
    NIBBLE_ASSIGN_OR_RETURN(caches_, LayerCaches::create(device_, config, longest));
    model::ModelWeights embedding;
    NIBBLE_ASSIGN_OR_RETURN(embedding.embed_tokens, source_.embedding());
    NIBBLE_CHECK(device_.shares_host_memory(), "calibration reads the embedding table in place");
    for (SequenceRun& run : runs_) {
      decoder_.embed(run.plan(caches_.pages(), nullptr), embedding, run.hidden.view());
    }
    return {};
  }

  Result<void> run_layer(int index) {
    NIBBLE_ASSIGN_OR_RETURN(const model::LoadedLayer layer,
                            model::LoadedLayer::load(device_, source_, index));
    source_.release_pages();
    observer_.start_layer(index);
    for (SequenceRun& run : runs_) {
      decoder_.layer(run.plan(caches_.pages(), &observer_), layer.weights(), caches_.cache(),
                     run.hidden.view());
    }
    device_.synchronize();
    const int64_t seen = observer_.finish_layer();
    result_.experts_seen += seen;
    result_.experts_seen_by_layer.push_back(seen);
    return keep_moments(index);
  }

  // The head itself is not run: only its input matters.
  Result<void> run_head() {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> weight,
                            source_.vector(model::Member::final_norm, kOutsideLayers));
    observer_.start_head();
    for (SequenceRun& run : runs_) {
      Tensor normed(device_.activation_dtype(), run.hidden.view().shape());
      device_.rms_norm(run.hidden.view(), weight.data(), normed.view());
      device_.synchronize();
      observer_.observe_head_input(normed.view());
    }
    return keep_moments(kOutsideLayers);
  }

  Result<void> keep_moments(int layer) {
    return request_.moments == nullptr ? Result<void>()
                                       : request_.moments(layer, observer_.moments());
  }

  device::Device& device_;
  model::CheckpointSource& source_;
  const CalibrationRequest& request_;
  model::Decoder decoder_;
  CalibrationResult result_;
  InputObserver observer_;
  std::vector<SequenceRun> runs_;
  LayerCaches caches_;
};

}  // namespace

Result<CalibrationResult> calibrate(device::Device& device, model::CheckpointSource& source,
                                    const CalibrationRequest& request,
                                    const CalibrationProgress& progress) {
  return Calibrator(device, source, request).run(progress);
}

}  // namespace nibble::quantize
