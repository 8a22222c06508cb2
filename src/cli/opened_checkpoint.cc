#include "cli/opened_checkpoint.h"

namespace nibble::cli {

Result<std::unique_ptr<OpenedCheckpoint>> OpenedCheckpoint::open(const std::string& folder) {
  auto out = std::make_unique<OpenedCheckpoint>();
  NIBBLE_ASSIGN_OR_RETURN(const formats::ModelConfig config, formats::load_model_config(folder));
  NIBBLE_ASSIGN_OR_RETURN(out->checkpoint, formats::Checkpoint::open(folder));
  NIBBLE_ASSIGN_OR_RETURN(out->source, model::CheckpointSource::open(*out->checkpoint, config));
  return out;
}

}  // namespace nibble::cli
