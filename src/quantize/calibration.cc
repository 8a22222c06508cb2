#include "quantize/calibration.h"

#include "base/rng.h"
#include "model/loaded_model.h"
#include "model/qwen3_5_moe/decoder.h"
#include "quantize/input_observer.h"
#include "quantize/layer_caches.h"
#include "quantize/member_table.h"
#include "quantize/row_file.h"
#include "tensor/tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace nibble::quantize {
namespace {

// One sequence as a step of its own.
struct SequenceRun {
  const std::vector<int32_t>& tokens;
  std::vector<int32_t> positions;  // [tokens][3]
  std::vector<int32_t> row_sequence;  // zeros
  device::SequenceStep step;

  explicit SequenceRun(const std::vector<int32_t>& ids)
      : tokens(ids),
        row_sequence(ids.size(), 0),
        step{device::SequenceKind::prefill,
             0,
             static_cast<int32_t>(ids.size()),
             static_cast<int32_t>(ids.size()),
             device::kZeroState,
             0} {
    for (int32_t i = 0; i < step.q_len; ++i) positions.insert(positions.end(), 3, i);
  }

  device::StepPlan plan(const std::vector<int32_t>& pages, device::Observer* observer) const {
    device::StepPlan out;
    out.num_rows = step.q_len;
    out.num_sequences = 1;
    out.page_table_stride = static_cast<int32_t>(pages.size());
    out.num_kv_pages = device::kv_pages(step.kv_len);
    out.token_ids = tokens.data();
    out.positions = positions.data();
    out.row_sequence = row_sequence.data();
    out.sequences = &step;
    out.page_table = pages.data();
    out.observer = observer;
    return out;
  }
};

Result<void> check_tokens(const formats::ModelConfig& config,
                          const std::vector<std::vector<int32_t>>& sequences) {
  for (size_t i = 0; i < sequences.size(); ++i) {
    NIBBLE_CHECK(!sequences[i].empty(), "empty calibration sequence", i);
    for (const int32_t token : sequences[i]) {
      if (token < 0 || token >= config.vocab_size) {
        return Error{ErrorCode::invalid_argument,
                     fmt::format("calibration sequence {}: token id {}, expected 0 to {}", i, token,
                                 config.vocab_size - 1)};
      }
    }
  }
  return {};
}

// Random ids in sequences of the same lengths.
std::vector<std::vector<int32_t>> noise_like(const std::vector<std::vector<int32_t>>& sequences,
                                             int64_t vocab_size) {
  std::vector<std::vector<int32_t>> out;
  Rng rng(1);
  for (const auto& sequence : sequences) {
    auto& noise = out.emplace_back();
    for (size_t i = 0; i < sequence.size(); ++i) {
      noise.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocab_size))));
    }
  }
  return out;
}

std::span<const std::byte> bytes_of(ConstTensorView view) {
  return {view.data(), view.bytes()};
}

}  // namespace

class Calibrator::Run {
 public:
  Run(device::Device& device, model::CheckpointSource& source, CalibrationRequest request,
      CalibrationProgress progress)
      : device_(device),
        source_(source),
        request_(std::move(request)),
        progress_(std::move(progress)),
        decoder_(device, model::Placement()),
        observer_(source.config(), source.prefix(), request_) {}

  Result<void> prepare() {
    const formats::ModelConfig& config = source_.config();
    NIBBLE_RETURN_IF_ERROR(check_tokens(config, request_.sequences));
    first_noise_ = static_cast<int64_t>(request_.sequences.size());
    if (request_.gathered.noise) {
      const auto noise = noise_like(request_.sequences, config.vocab_size);
      request_.sequences.insert(request_.sequences.end(), noise.begin(), noise.end());
    }
    int64_t longest = 0;
    for (const auto& sequence : request_.sequences) {
      tokens_ += static_cast<int64_t>(sequence.size());
      longest = std::max(longest, static_cast<int64_t>(sequence.size()));
    }
    NIBBLE_RETURN_IF_ERROR(device_.set_workspace(model::workspace_spec(config, longest)));
    NIBBLE_ASSIGN_OR_RETURN(caches_, LayerCaches::create(device_, config, longest));
    hidden_ = Tensor(DType::f32, Shape{longest, config.hidden_size});
    return {};
  }

  Result<LayerStatistics> layer(int index) {
    const int number =
        index == kOutsideLayers ? static_cast<int>(source_.config().num_hidden_layers) : index;
    if (next_ < 0) {
      NIBBLE_RETURN_IF_ERROR(number == 0 ? embed() : find_rows(number));
      next_ = number;
    }
    NIBBLE_CHECK(number == next_, "layers in order", number, next_);
    ++next_;
    LayerStatistics out;
    NIBBLE_RETURN_IF_ERROR(index == kOutsideLayers ? run_head(out) : run_layer(index, out));
    return out;
  }

 private:
  size_t row_bytes() const {
    return static_cast<size_t>(source_.config().hidden_size) * sizeof(float);
  }
  // Input of layer `number`: files 0 and 1 in turn.
  std::string rows_path(int number) const {
    return fmt::format("{}hidden-{}", request_.scratch, number % 2);
  }
  Result<void> find_rows(int number) {
    NIBBLE_ASSIGN_OR_RETURN(in_, RowFile::open(rows_path(number), row_bytes(), tokens_));
    return {};
  }

  // Calls body(sequence, its hidden rows, number of its first row) for every sequence; tells the
  // observer when noise begins.
  template <typename Body>
  Result<void> for_sequences(const Body& body) {
    int64_t first = 0;
    const auto total = static_cast<int64_t>(request_.sequences.size());
    for (int64_t i = 0; i < total; ++i) {
      if (!progress_(i, total)) return Error{ErrorCode::cancelled, "calibration was interrupted"};
      if (i == first_noise_) observer_.start_noise();
      const SequenceRun run(request_.sequences[static_cast<size_t>(i)]);
      const TensorView hidden = hidden_.view().slice_rows(0, run.step.q_len);
      NIBBLE_RETURN_IF_ERROR(body(run, hidden, first));
      first += run.step.q_len;
    }
    return {};
  }

  Result<void> embed() {
    NIBBLE_CHECK(device_.shares_host_memory(), "calibration reads the embedding table in place");
    model::ModelWeights embedding;
    NIBBLE_ASSIGN_OR_RETURN(embedding.embed_tokens, source_.embedding());
    NIBBLE_ASSIGN_OR_RETURN(in_, RowFile::create(rows_path(0), row_bytes()));
    const auto embed_one = [&](const SequenceRun& run, TensorView hidden, int64_t first) {
      decoder_.embed(run.plan(caches_.pages(), nullptr), embedding, hidden);
      device_.synchronize();
      return in_.write(first, bytes_of(hidden));
    };
    NIBBLE_RETURN_IF_ERROR(for_sequences(embed_one));
    source_.release_pages();
    return in_.sync();
  }

  Result<void> run_layer(int index, LayerStatistics& out) {
    NIBBLE_ASSIGN_OR_RETURN(const model::LoadedLayer layer,
                            model::LoadedLayer::load(device_, source_, index));
    source_.release_pages();
    NIBBLE_ASSIGN_OR_RETURN(RowFile written, RowFile::create(rows_path(index + 1), row_bytes()));
    observer_.start_layer(index, out);
    const auto run_one = [&](const SequenceRun& run, TensorView hidden, int64_t first) {
      return run_sequence(layer.weights(), run, hidden, first, written);
    };
    NIBBLE_RETURN_IF_ERROR(for_sequences(run_one));
    NIBBLE_RETURN_IF_ERROR(written.sync());
    in_ = std::move(written);
    return observer_.finish_layer();
  }

  Result<void> run_sequence(const model::LayerWeights& weights, const SequenceRun& run,
                            TensorView hidden, int64_t first, RowFile& written) {
    NIBBLE_RETURN_IF_ERROR(in_.read(first, {hidden.data(), hidden.bytes()}));
    decoder_.layer(run.plan(caches_.pages(), &observer_), weights, caches_.cache(), hidden);
    device_.synchronize();
    if (request_.force_all_experts && !observer_.sees_noise()) force_experts(weights.moe);
    return written.write(first, bytes_of(hidden));
  }

  // The rows that just went into the MLP through every expert, as many of them at a time as a
  // token has slots.
  void force_experts(const device::MoeWeights& weights) {
    const ConstTensorView rows = observer_.mlp_rows();
    const int64_t slots = source_.config().num_experts_per_tok;
    const int64_t experts = source_.config().num_experts;
    Tensor chosen(DType::i32, Shape{rows.rows(), slots});
    Tensor out(rows.dtype(), Shape{rows.rows() * slots, source_.config().moe_intermediate_size});
    for (int64_t base = 0; base < experts; base += slots) {
      int32_t* choice = chosen.view().as<int32_t>();
      for (int64_t i = 0; i < rows.rows() * slots; ++i) {
        choice[i] = static_cast<int32_t>(std::min(base + i % slots, experts - 1));
      }
      device_.moe_gate_up(device::StepPlan(), rows, weights.gate_up, chosen.view(), out.view());
      device_.synchronize();
      observer_.observe_forced_slots(out.view());
    }
  }

  // The head itself is not run: only its input matters.
  Result<void> run_head(LayerStatistics& out) {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> weight,
                            source_.vector(model::Member::final_norm, kOutsideLayers));
    observer_.start_head(out);
    return for_sequences([&](const SequenceRun&, TensorView hidden, int64_t first) -> Result<void> {
      NIBBLE_RETURN_IF_ERROR(in_.read(first, {hidden.data(), hidden.bytes()}));
      Tensor normed(device_.activation_dtype(), hidden.shape());
      device_.rms_norm(hidden, weight.data(), normed.view());
      device_.synchronize();
      return observer_.observe_head_input(normed.view());
    });
  }

  device::Device& device_;
  model::CheckpointSource& source_;
  CalibrationRequest request_;
  const CalibrationProgress progress_;
  model::Decoder decoder_;
  InputObserver observer_;
  LayerCaches caches_;
  Tensor hidden_;  // of one sequence
  RowFile in_;  // input of the next layer
  int64_t tokens_ = 0;
  int64_t first_noise_ = 0;  // sequence; behind the last one without noise
  int next_ = -1;  // layer whose input `in_` is; -1 before the first call
};

Calibrator::Calibrator(std::unique_ptr<Run> run) : run_(std::move(run)) {}
Calibrator::~Calibrator() = default;

Result<std::unique_ptr<Calibrator>> Calibrator::open(device::Device& device,
                                                     model::CheckpointSource& source,
                                                     CalibrationRequest request,
                                                     CalibrationProgress progress) {
  auto run = std::make_unique<Run>(device, source, std::move(request), std::move(progress));
  NIBBLE_RETURN_IF_ERROR(run->prepare());
  return std::unique_ptr<Calibrator>(new Calibrator(std::move(run)));
}

Result<LayerStatistics> Calibrator::layer(int index) {
  return run_->layer(index);
}

}  // namespace nibble::quantize
