// Runs the models of a KL divergence over a text, layer by layer, and compares them position by
// position.
//
// Sequences go in groups whose hidden rows fit a budget; in a group every layer of every model is
// loaded once, run, and dropped; then the heads run in slices of rows, so that no more than a slice
// of logits is in memory. Records come in the order of the text, whatever the number of threads.
#pragma once

#include "base/result.h"
#include "base/thread_pool.h"
#include "device/device.h"
#include "eval/kld/base_file.h"
#include "eval/kld/layer_errors.h"
#include "eval/kld/position_record.h"
#include "eval/sequences.h"
#include "eval/streamed_model.h"
#include "model/loaded_model.h"
#include "model/weight_source.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace nibble::eval {

/// One way of computing one model.
struct KldModel {
  device::Device* device = nullptr;
  model::WeightSource* source = nullptr;
  DType kv_dtype = DType::bf16;
};

/// The base computed in another way, on the first sequences of the text: how far apart are two
/// results that should be one.
struct NoiseProbe {
  std::string name;
  KldModel model;
  bool single_rows = false;
};

struct KldOptions {
  int64_t hidden_bytes = int64_t{1} << 30;  // of all models' hidden rows in one group
  int64_t logits_bytes = int64_t{64} << 20;  // of one slice of one model
  bool layers = true;  // compare hidden states and routing after every layer
  int64_t probe_rows = 0;  // probes run the first sequences that hold so many rows
};

/// Who takes part. At least a model and a base (a model or a file), or a base and a writer.
struct KldParties {
  const KldModel* base = nullptr;
  const BaseFileReader* base_file = nullptr;  // instead of a base model
  const KldModel* model = nullptr;
  std::vector<NoiseProbe> probes;  // need a base model
  BaseFileWriter* writer = nullptr;  // keeps the base model's positions
};

struct NoiseResult {
  std::string name;
  std::vector<PositionRecord> records;
};

struct KldOutcome {
  std::vector<PositionRecord> records;  // scored positions in the order of the text
  std::vector<HiddenError> layers;  // by layer, base model against model; empty for a base file or
                                    // without options.layers
  std::vector<RoutingAgreement> routing;  // by layer, likewise
  std::vector<NoiseResult> noise;
};

class KldRun {
 public:
  /// (done, total) in units of one layer of one model; false stops with ErrorCode::cancelled.
  using Progress = std::function<bool(int64_t done, int64_t total, const std::string& detail)>;
  /// Records of the group that was finished last are at the end of `records`.
  using GroupDone = std::function<void(const std::vector<PositionRecord>& records)>;

  /// `pool` is used for the comparisons; the devices' own work is over then. All outlive the run.
  KldRun(ThreadPool& pool, const KldOptions& options, KldParties parties);

  /// Sets the workspaces of the devices. Errors: invalid_argument (models of other shapes, token
  /// ids outside the vocabulary), exhausted, internal (a logit is not finite), and those of files.
  Result<KldOutcome> run(std::span<const ScoredSequence> sequences, const Progress& progress,
                         const GroupDone& group_done);

 private:
  enum class Role { base, model, probe };
  struct Party {
    Role role;
    size_t probe = 0;  // index
    KldModel model;
    std::unique_ptr<StreamedModel> stream;
    size_t limit = 0;  // sequences of the text it runs
    std::span<const ScoredSequence> sequences;  // of the current group
    std::vector<float> logits;  // of the current slice
  };
  /// Hidden rows of the scored positions of one slice.
  struct Slice {
    size_t first_record = 0;
    std::vector<int64_t> rows;
    std::vector<PositionRecord> places;  // sequence, position and token filled in
  };

  Result<void> check(std::span<const ScoredSequence> sequences) const;
  Result<void> make_parties(std::span<const ScoredSequence> sequences);
  Result<void> add_party(Role role, size_t probe, const KldModel& model, size_t limit,
                         bool single_rows, int32_t longest);
  std::vector<size_t> group_ends(std::span<const ScoredSequence> sequences) const;
  Result<void> run_group(std::span<const ScoredSequence> sequences, size_t begin, size_t end);
  Result<void> run_layer(int layer);
  void compare_layer(int layer);
  Result<void> run_heads(std::span<const ScoredSequence> group, size_t first_sequence);
  Result<void> run_slice(const std::vector<model::LoadedHead>& heads, const Slice& slice);
  Result<void> compare_slice(const Slice& slice);
  Result<PositionRecord> compare_row(const Party& party, size_t row, const PositionRecord& place,
                                     size_t record, std::vector<float>& scratch) const;
  std::span<const float> row_of(const Party& party, size_t row) const;
  Result<void> tick(const std::string& detail);
  Party* party_of(Role role);
  int64_t vocab_size() const;
  const formats::ModelConfig& config() const;

  ThreadPool& pool_;
  const KldOptions options_;
  const KldParties given_;
  std::vector<Party> parties_;  // parties that share weights lie side by side
  KldOutcome outcome_;
  const Progress* progress_ = nullptr;
  int64_t done_ = 0, total_ = 0;
  size_t scored_ = 0;  // positions before the current group
};

}  // namespace nibble::eval
