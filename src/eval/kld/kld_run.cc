#include "eval/kld/kld_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

namespace nibble::eval {
namespace {

constexpr int32_t kRowsPerStep = 1024;
constexpr size_t kMaxSliceRows = 256;

// Everything that decides a shape; the two models share workspace and rows.
Result<void> check_same_shape(const formats::ModelConfig& base, const formats::ModelConfig& model) {
  const std::tuple<const char*, int64_t, int64_t> fields[] = {
      {"vocab_size", base.vocab_size, model.vocab_size},
      {"hidden_size", base.hidden_size, model.hidden_size},
      {"num_hidden_layers", base.num_hidden_layers, model.num_hidden_layers},
      {"num_attention_heads", base.num_attention_heads, model.num_attention_heads},
      {"num_key_value_heads", base.num_key_value_heads, model.num_key_value_heads},
      {"head_dim", base.head_dim, model.head_dim},
      {"linear_num_key_heads", base.linear_num_key_heads, model.linear_num_key_heads},
      {"linear_num_value_heads", base.linear_num_value_heads, model.linear_num_value_heads},
      {"linear_key_head_dim", base.linear_key_head_dim, model.linear_key_head_dim},
      {"linear_value_head_dim", base.linear_value_head_dim, model.linear_value_head_dim},
      {"linear_conv_kernel_dim", base.linear_conv_kernel_dim, model.linear_conv_kernel_dim},
      {"num_experts", base.num_experts, model.num_experts},
      {"num_experts_per_tok", base.num_experts_per_tok, model.num_experts_per_tok},
      {"moe_intermediate_size", base.moe_intermediate_size, model.moe_intermediate_size},
      {"shared_expert_intermediate_size", base.shared_expert_intermediate_size,
       model.shared_expert_intermediate_size}};
  for (const auto& [name, a, b] : fields) {
    if (a == b) continue;
    return Error{ErrorCode::invalid_argument,
                 fmt::format("the two models do not compare: {} is {} in the base and {} in the "
                             "model",
                             name, a, b)};
  }
  if (base.layer_types != model.layer_types) {
    return Error{ErrorCode::invalid_argument,
                 "the two models do not compare: their layer_types differ"};
  }
  return {};
}

bool share_weights(const KldModel& a, const KldModel& b) {
  return a.device == b.device && a.source == b.source;
}

Error not_finite(const PositionRecord& place) {
  return Error{ErrorCode::internal, fmt::format("sequence {}: the logits before token {} are not "
                                                "finite",
                                                place.sequence + 1, place.position)};
}

}  // namespace

KldRun::KldRun(ThreadPool& pool, const KldOptions& options, KldParties parties)
    : pool_(pool), options_(options), given_(std::move(parties)) {
  NIBBLE_CHECK((given_.base == nullptr) != (given_.base_file == nullptr), "one base");
  NIBBLE_CHECK(given_.model != nullptr || given_.writer != nullptr, "nothing to do with the base");
  NIBBLE_CHECK(given_.base != nullptr || (given_.probes.empty() && given_.writer == nullptr),
               "probes and a base file need a base model");
}

const formats::ModelConfig& KldRun::config() const {
  return (given_.model != nullptr ? given_.model : given_.base)->source->config();
}

int64_t KldRun::vocab_size() const {
  return config().vocab_size;
}

KldRun::Party* KldRun::party_of(Role role) {
  const auto found = std::find_if(parties_.begin(), parties_.end(),
                                  [&](const Party& party) { return party.role == role; });
  return found == parties_.end() ? nullptr : &*found;
}

Result<void> KldRun::check(std::span<const ScoredSequence> sequences) const {
  if (given_.base != nullptr && given_.model != nullptr) {
    NIBBLE_RETURN_IF_ERROR(check_same_shape(given_.base->source->config(), config()));
  }
  if (given_.base_file != nullptr) {
    const int64_t found = given_.base_file->info().layout.vocab_size;
    if (found != vocab_size()) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("the base file has a vocabulary of {}, the model one of {}", found,
                               vocab_size())};
    }
    NIBBLE_CHECK(total_scored_tokens(sequences) <= given_.base_file->rows(), "rows of the base");
  }
  for (const ScoredSequence& sequence : sequences) {
    NIBBLE_CHECK(sequence.length() >= 2 && sequence.first_scored >= 1, "sequence to score",
                 sequence.length(), sequence.first_scored);
    for (const int32_t token : sequence.tokens) {
      if (token >= 0 && token < vocab_size()) continue;
      return Error{ErrorCode::invalid_argument,
                   fmt::format("token id {}, expected 0 to {}", token, vocab_size() - 1)};
    }
  }
  return {};
}

Result<void> KldRun::add_party(Role role, size_t probe, const KldModel& model, size_t limit,
                               bool single_rows, int32_t longest) {
  StreamOptions options;
  options.kv_dtype = model.kv_dtype;
  options.single_rows = single_rows;
  options.keeps_routing =
      options_.layers && role != Role::probe && given_.base != nullptr && given_.model != nullptr;
  options.rows_per_step = kRowsPerStep;
  const device::WorkspaceSpec spec = model::workspace_spec(model.source->config(), kRowsPerStep);
  if (model.device->workspace_spec().max_rows != kRowsPerStep) {
    NIBBLE_RETURN_IF_ERROR(model.device->set_workspace(spec));
  }
  Party party;
  party.role = role;
  party.probe = probe;
  party.model = model;
  party.limit = limit;
  NIBBLE_ASSIGN_OR_RETURN(party.stream,
                          StreamedModel::create(*model.device, *model.source, options, longest));
  parties_.push_back(std::move(party));
  return {};
}

// Base, then probes (those with the base's own weights first), then the model.
Result<void> KldRun::make_parties(std::span<const ScoredSequence> sequences) {
  const int32_t longest = longest_sequence(sequences);
  if (given_.base != nullptr) {
    NIBBLE_RETURN_IF_ERROR(
        add_party(Role::base, 0, *given_.base, sequences.size(), false, longest));
  }
  size_t limit = 0;
  for (int64_t rows = 0; limit < sequences.size() && rows < options_.probe_rows; ++limit) {
    rows += sequences[limit].rows();
  }
  for (const bool shared : {true, false}) {
    for (size_t i = 0; i < given_.probes.size() && limit > 0; ++i) {
      const NoiseProbe& probe = given_.probes[i];
      if (share_weights(probe.model, *given_.base) != shared) continue;
      NIBBLE_RETURN_IF_ERROR(
          add_party(Role::probe, i, probe.model, limit, probe.single_rows, longest));
    }
  }
  if (given_.model != nullptr) {
    NIBBLE_RETURN_IF_ERROR(
        add_party(Role::model, 0, *given_.model, sequences.size(), false, longest));
  }
  if (limit > 0) {
    for (const NoiseProbe& probe : given_.probes) outcome_.noise.push_back({probe.name, {}});
  }
  return {};
}

std::vector<size_t> KldRun::group_ends(std::span<const ScoredSequence> sequences) const {
  const auto row_bytes = static_cast<int64_t>(parties_.size()) * config().hidden_size *
                         static_cast<int64_t>(sizeof(float));
  std::vector<size_t> ends;
  int64_t bytes = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const int64_t own = sequences[i].rows() * row_bytes;
    if (bytes > 0 && bytes + own > options_.hidden_bytes) {
      ends.push_back(i);
      bytes = 0;
    }
    bytes += own;
  }
  ends.push_back(sequences.size());
  return ends;
}

Result<void> KldRun::tick(const std::string& detail) {
  if (!(*progress_)(++done_, total_, detail)) return Error{ErrorCode::cancelled, "interrupted"};
  return {};
}

Result<KldOutcome> KldRun::run(std::span<const ScoredSequence> sequences, const Progress& progress,
                               const GroupDone& group_done) {
  NIBBLE_RETURN_IF_ERROR(check(sequences));
  progress_ = &progress;
  outcome_ = {};
  parties_.clear();
  done_ = 0;
  scored_ = 0;
  NIBBLE_RETURN_IF_ERROR(make_parties(sequences));
  const std::vector<size_t> ends = group_ends(sequences);
  total_ =
      static_cast<int64_t>(ends.size() * (static_cast<size_t>(config().num_hidden_layers) + 1));
  size_t begin = 0;
  for (const size_t end : ends) {
    NIBBLE_RETURN_IF_ERROR(run_group(sequences, begin, end));
    group_done(outcome_.records);
    begin = end;
  }
  if (given_.writer != nullptr) NIBBLE_RETURN_IF_ERROR(given_.writer->finish());
  return std::move(outcome_);
}

Result<void> KldRun::run_group(std::span<const ScoredSequence> sequences, size_t begin,
                               size_t end) {
  for (Party& party : parties_) {
    const size_t last = std::min(end, std::max(begin, party.limit));
    party.sequences = sequences.subspan(begin, last - begin);
    if (!party.sequences.empty()) NIBBLE_RETURN_IF_ERROR(party.stream->start(party.sequences));
  }
  const auto layers = static_cast<int>(config().num_hidden_layers);
  for (int layer = 0; layer < layers; ++layer) {
    NIBBLE_RETURN_IF_ERROR(run_layer(layer));
    compare_layer(layer);
    NIBBLE_RETURN_IF_ERROR(tick(fmt::format("layer {} of {}", layer + 1, layers)));
  }
  const std::span<const ScoredSequence> group = sequences.subspan(begin, end - begin);
  NIBBLE_RETURN_IF_ERROR(run_heads(group, begin));
  scored_ += static_cast<size_t>(total_scored_tokens(group));
  return tick("heads");
}

Result<void> KldRun::run_layer(int layer) {
  std::optional<model::LoadedLayer> loaded;
  const KldModel* owner = nullptr;
  for (Party& party : parties_) {
    if (party.sequences.empty()) continue;
    if (owner == nullptr || !share_weights(*owner, party.model)) {
      loaded.reset();  // the other model's layer goes before this one comes
      NIBBLE_ASSIGN_OR_RETURN(
          loaded, model::LoadedLayer::load(*party.model.device, *party.model.source, layer));
      party.model.source->release_pages();
      owner = &party.model;
    }
    party.stream->run_layer(loaded->weights());
  }
  return {};
}

void KldRun::compare_layer(int layer) {
  Party* base = party_of(Role::base);
  Party* model = party_of(Role::model);
  if (base == nullptr || model == nullptr || !options_.layers) return;
  const auto index = static_cast<size_t>(layer);
  if (outcome_.layers.size() <= index) {
    outcome_.layers.resize(index + 1);
    outcome_.routing.resize(index + 1);
  }
  outcome_.layers[index].add(base->stream->hidden(), model->stream->hidden());
  outcome_.routing[index].add(base->stream->routing(), model->stream->routing());
}

Result<void> KldRun::run_heads(std::span<const ScoredSequence> group, size_t first_sequence) {
  std::vector<model::LoadedHead> heads;  // one per run of parties that share weights
  const KldModel* owner = nullptr;
  for (Party& party : parties_) {
    if (owner != nullptr && share_weights(*owner, party.model)) continue;
    owner = &party.model;
    NIBBLE_ASSIGN_OR_RETURN(auto head,
                            model::LoadedHead::load(*party.model.device, *party.model.source));
    heads.push_back(std::move(head));
    party.model.source->release_pages();
  }
  const auto row_bytes = static_cast<size_t>(vocab_size()) * sizeof(float);
  const size_t slice_rows =
      std::clamp<size_t>(static_cast<size_t>(options_.logits_bytes) / row_bytes, 1, kMaxSliceRows);
  Slice slice;
  slice.first_record = scored_;
  int64_t first_row = 0;
  for (size_t i = 0; i < group.size(); ++i) {
    const ScoredSequence& sequence = group[i];
    for (int32_t position = sequence.first_scored; position < sequence.length(); ++position) {
      PositionRecord place;
      place.sequence = static_cast<int32_t>(first_sequence + i);
      place.position = position;
      place.token = sequence.tokens[static_cast<size_t>(position)];
      slice.rows.push_back(first_row + position - 1);
      slice.places.push_back(place);
      const bool is_last = i + 1 == group.size() && position + 1 == sequence.length();
      if (slice.rows.size() < slice_rows && !is_last) continue;
      NIBBLE_RETURN_IF_ERROR(run_slice(heads, slice));
      slice = {slice.first_record + slice.rows.size(), {}, {}};
    }
    first_row += sequence.rows();
  }
  return {};
}

Result<void> KldRun::run_slice(const std::vector<model::LoadedHead>& heads, const Slice& slice) {
  size_t head = 0;
  const KldModel* owner = nullptr;
  for (Party& party : parties_) {
    if (owner != nullptr && !share_weights(*owner, party.model)) ++head;
    owner = &party.model;
    // A probe runs the first sequences only: the first rows of the slice, or none.
    const auto rows = static_cast<size_t>(
        std::count_if(slice.places.begin(), slice.places.end(), [&](const PositionRecord& place) {
          return static_cast<size_t>(place.sequence) < party.limit;
        }));
    party.logits.resize(rows * static_cast<size_t>(vocab_size()));
    if (rows == 0) continue;
    NIBBLE_RETURN_IF_ERROR(
        party.stream->head(heads[head].weights(), std::span(slice.rows).first(rows), party.logits));
  }
  return compare_slice(slice);
}

std::span<const float> KldRun::row_of(const Party& party, size_t row) const {
  const auto vocab = static_cast<size_t>(vocab_size());
  return std::span(party.logits).subspan(row * vocab, vocab);
}

// Row `row` of a slice: the party's logits against the base's.
Result<PositionRecord> KldRun::compare_row(const Party& party, size_t row,
                                           const PositionRecord& place, size_t record,
                                           std::vector<float>& scratch) const {
  const LogProbRow mine = normalized(row_of(party, row));
  PositionRecord out;
  if (given_.base_file != nullptr) {
    NIBBLE_ASSIGN_OR_RETURN(
        out, given_.base_file->compare(static_cast<int64_t>(record), mine, place.token, scratch));
  } else {
    const Party& base = parties_.front();
    out = compare_position(normalized(row_of(base, row)), mine, place.token);
  }
  out.sequence = place.sequence;
  out.position = place.position;
  if (!std::isfinite(out.kld) || !std::isfinite(out.nll) || !std::isfinite(out.base_nll)) {
    return not_finite(place);
  }
  return out;
}

Result<void> KldRun::compare_slice(const Slice& slice) {
  const size_t count = slice.rows.size();
  std::vector<std::vector<float>> scratch(static_cast<size_t>(pool_.num_threads()));
  for (const Party& party : parties_) {
    if (party.role == Role::base) continue;
    auto& records =
        party.role == Role::model ? outcome_.records : outcome_.noise[party.probe].records;
    const size_t rows = party.logits.size() / static_cast<size_t>(vocab_size());
    const size_t before = records.size();
    records.resize(before + rows);
    std::vector<std::optional<Error>> errors(rows);
    pool_.parallel_for(static_cast<int64_t>(rows), [&](int64_t task, int worker) {
      const auto row = static_cast<size_t>(task);
      auto compared = compare_row(party, row, slice.places[row], slice.first_record + row,
                                  scratch[static_cast<size_t>(worker)]);
      if (compared.ok()) {
        records[before + row] = compared.value();
      } else {
        errors[row] = compared.error();
      }
    });
    for (const std::optional<Error>& error : errors) {
      if (error) return *error;
    }
  }
  for (size_t row = 0; given_.writer != nullptr && row < count; ++row) {
    const std::span<const float> logits = row_of(parties_.front(), row);
    if (!std::isfinite(normalized(logits).log_sum)) return not_finite(slice.places[row]);
    NIBBLE_RETURN_IF_ERROR(given_.writer->add(logits, slice.places[row].token));
  }
  return {};
}

}  // namespace nibble::eval
