#include "eval/streamed_model.h"

#include "device/observer.h"
#include "model/loaded_model.h"
#include "runtime/model_executor.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

namespace nibble::eval {

// Copies the router's logits and choices of every step into rows of all sequences.
class StreamedModel::RoutingTap : public device::Observer {
 public:
  RoutingTap(const StreamedModel& stream, const formats::ModelConfig& config)
      : stream_(stream), experts_(config.num_experts), chosen_(config.num_experts_per_tok) {}

  void start(int64_t rows) {
    logits_ = Tensor(DType::f32, {rows, experts_});
    choices_ = Tensor(DType::i32, {rows, chosen_});
  }
  void set_pieces(const StepPieces& pieces) { pieces_ = &pieces; }
  RoutingRows rows() const { return {logits_.view(), choices_.view()}; }

  void observe(int /*layer*/, std::string_view name, ConstTensorView tensor) override {
    if (name == "moe.router_logits") scatter(tensor, logits_.view());
    if (name == "moe.experts") scatter(tensor, choices_.view());
  }

 private:
  void scatter(ConstTensorView step, TensorView all) const {
    int64_t row = 0;
    for (const StepPiece& piece : *pieces_) {
      const int64_t first = stream_.first_row(static_cast<size_t>(piece.sequence)) + piece.begin;
      const ConstTensorView from = step.slice_rows(row, piece.rows());
      std::memcpy(all.slice_rows(first, piece.rows()).data(), from.data(), from.bytes());
      row += piece.rows();
    }
  }

  const StreamedModel& stream_;
  const int64_t experts_, chosen_;
  const StepPieces* pieces_ = nullptr;
  Tensor logits_, choices_;
};

StreamedModel::StreamedModel(device::Device& device, model::WeightSource& source,
                             const StreamOptions& options)
    : device_(device), source_(source), options_(options), decoder_(device, model::Placement()) {}

StreamedModel::~StreamedModel() = default;

Result<std::unique_ptr<StreamedModel>> StreamedModel::create(device::Device& device,
                                                             model::WeightSource& source,
                                                             const StreamOptions& options,
                                                             int32_t longest) {
  NIBBLE_CHECK(device.workspace_spec().max_rows >= options.rows_per_step, "workspace rows",
               device.workspace_spec().max_rows, options.rows_per_step);
  std::unique_ptr<StreamedModel> stream(new StreamedModel(device, source, options));
  NIBBLE_RETURN_IF_ERROR(stream->allocate(longest));
  return stream;
}

Result<void> StreamedModel::allocate(int32_t longest) {
  const formats::ModelConfig& config = source_.config();
  capacity_.rows = options_.rows_per_step;
  capacity_.sequences = options_.sequences_per_step;
  capacity_.pages_per_sequence = (longest + device::kPageTokens - 1) / device::kPageTokens;
  capacity_.logit_rows = options_.rows_per_step;
  writer_ = std::make_unique<StepWriter>(capacity_);
  NIBBLE_ASSIGN_OR_RETURN(buffers_, runtime::StepBuffers::create(device_, capacity_));
  runtime::CacheGeometry geometry =
      runtime::cache_geometry(config, nullptr, options_.kv_dtype, device_.activation_dtype());
  geometry.layers = {runtime::CacheKind::kv, runtime::CacheKind::state};
  NIBBLE_ASSIGN_OR_RETURN(
      caches_, runtime::CachePools::create(device_, geometry, StepWriter::pages_needed(capacity_),
                                           capacity_.sequences));
  const auto rows = static_cast<size_t>(capacity_.rows);
  NIBBLE_ASSIGN_OR_RETURN(
      hidden_memory_,
      device_.allocate(rows * static_cast<size_t>(config.hidden_size) * sizeof(float),
                       "residual stream"));
  if (options_.keeps_routing) tap_ = std::make_unique<RoutingTap>(*this, config);
  return {};
}

Result<void> StreamedModel::start(std::span<const ScoredSequence> sequences) {
  sequences_ = sequences;
  first_rows_.clear();
  int64_t rows = 0;
  for (const ScoredSequence& sequence : sequences) {
    first_rows_.push_back(rows);
    rows += sequence.rows();
  }
  hidden_ = Tensor(DType::f32, {rows, source_.config().hidden_size});
  if (tap_) tap_->start(rows);
  steps_ = options_.single_rows ? cut_in_single_rows(sequences, capacity_.sequences)
                                : cut_in_chunks(sequences, capacity_.rows, capacity_.sequences);
  return embed();
}

Result<void> StreamedModel::embed() {
  NIBBLE_ASSIGN_OR_RETURN(const ConstTensorView table, source_.embedding());
  model::ModelWeights weights;
  weights.embed_tokens = table;
  std::unique_ptr<device::Memory> copy;
  if (!device_.shares_host_memory()) {
    NIBBLE_ASSIGN_OR_RETURN(copy, device_.allocate(table.bytes(), "embedding table"));
    device_.upload(copy->data(), {table.data(), table.bytes()});
    weights.embed_tokens = ConstTensorView(copy->data(), table.dtype(), table.shape());
  }
  for (const StepPieces& pieces : cut_in_chunks(sequences_, capacity_.rows, capacity_.sequences)) {
    const device::StepPlan& plan = load_step(pieces);
    decoder_.embed(plan, weights,
                   TensorView(hidden_memory_->data(), DType::f32,
                              {plan.num_rows, source_.config().hidden_size}));
    download_rows(pieces);
  }
  return {};
}

const device::StepPlan& StreamedModel::load_step(const StepPieces& pieces) {
  const auto kind =
      options_.single_rows ? device::SequenceKind::decode : device::SequenceKind::prefill;
  return buffers_->load(writer_->write(sequences_, pieces, kind, LogitRows::none));
}

std::span<std::byte> StreamedModel::host_rows(const StepPiece& piece) {
  const int64_t first = first_rows_[static_cast<size_t>(piece.sequence)] + piece.begin;
  const TensorView rows = hidden_.view().slice_rows(first, piece.rows());
  return {rows.data(), rows.bytes()};
}

void StreamedModel::upload_rows(const StepPieces& pieces) {
  std::byte* destination = hidden_memory_->data();
  for (const StepPiece& piece : pieces) {
    const std::span<const std::byte> rows = host_rows(piece);
    device_.upload(destination, rows);
    destination += rows.size();
  }
}

void StreamedModel::download_rows(const StepPieces& pieces) {
  const std::byte* source = hidden_memory_->data();
  for (const StepPiece& piece : pieces) {
    const std::span<std::byte> rows = host_rows(piece);
    device_.download(rows, source);
    source += rows.size();
  }
  device_.synchronize();
}

void StreamedModel::run_layer(const model::LayerWeights& weights) {
  device::LayerCache cache;
  cache.kv = caches_->layers()[0].kv;
  cache.kv.k_scale = weights.k_scale;
  cache.kv.v_scale = weights.v_scale;
  cache.state = caches_->layers()[1].state;
  for (const StepPieces& pieces : steps_) {
    device::StepPlan plan = load_step(pieces);
    if (tap_) tap_->set_pieces(pieces);
    plan.observer = tap_.get();
    upload_rows(pieces);
    decoder_.layer(plan, weights, cache,
                   TensorView(hidden_memory_->data(), DType::f32,
                              {plan.num_rows, source_.config().hidden_size}));
    download_rows(pieces);
  }
}

Result<void> StreamedModel::head(const device::HeadWeights& weights, std::span<const int64_t> rows,
                                 std::span<float> out) {
  const formats::ModelConfig& config = source_.config();
  const auto count = static_cast<int32_t>(rows.size());
  NIBBLE_CHECK(count >= 1 && count <= capacity_.rows &&
                   out.size() == rows.size() * static_cast<size_t>(config.vocab_size),
               "rows of the head", count, out.size());
  if (!logits_memory_ || logits_memory_->bytes() < out.size_bytes()) {
    NIBBLE_ASSIGN_OR_RETURN(logits_memory_, device_.allocate(out.size_bytes(), "logits"));
  }
  runtime::Step step;
  step.token_ids.assign(rows.size(), 0);
  step.positions.assign(3 * rows.size(), 0);
  step.sequences = {{device::SequenceKind::prefill, 0, count, count, device::kZeroState, 0}};
  step.pages.resize(1);
  for (int32_t row = 0; row < count; ++row) step.logit_rows.push_back(row);
  const device::StepPlan& plan = buffers_->load(step);
  std::byte* destination = hidden_memory_->data();
  for (const int64_t row : rows) {
    const ConstTensorView view = hidden().slice_rows(row, 1);
    device_.upload(destination, {view.data(), view.bytes()});
    destination += view.bytes();
  }
  const TensorView logits(logits_memory_->data(), DType::f32, {count, config.vocab_size});
  model::ModelWeights head;
  head.head = weights;
  decoder_.head(plan, head,
                ConstTensorView(hidden_memory_->data(), DType::f32, {count, config.hidden_size}), 0,
                logits);
  device_.download(std::as_writable_bytes(out), logits.data());
  device_.synchronize();
  return {};
}

RoutingRows StreamedModel::routing() const {
  NIBBLE_CHECK(tap_ != nullptr, "the stream keeps no routing");
  return tap_->rows();
}

}  // namespace nibble::eval
