// OpenedCheckpoint: a checkpoint folder and its view as a model, for as long as both are needed.
#pragma once

#include "base/result.h"
#include "formats/checkpoint.h"
#include "model/checkpoint_source.h"

#include <memory>
#include <optional>
#include <string>

namespace nibble::cli {

struct OpenedCheckpoint {
  std::optional<formats::Checkpoint> checkpoint;
  std::unique_ptr<model::CheckpointSource> source;

  /// On the heap: the source refers to the checkpoint beside it.
  static Result<std::unique_ptr<OpenedCheckpoint>> open(const std::string& folder);

  const formats::ModelConfig& config() const { return source->config(); }
};

}  // namespace nibble::cli
