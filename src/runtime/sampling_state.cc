// min_tokens is a bias of -infinity on the stop tokens, so the device needs no rule of its own.
#include "runtime/sampling_state.h"

#include <algorithm>
#include <limits>

namespace nibble::runtime {

SamplingState::SamplingState(const Request& request, int32_t max_completion)
    : params_(request.sampling), min_tokens_(request.min_tokens) {
  const SamplingParams& p = params_;
  has_penalties_ =
      p.repetition_penalty != 1.0f || p.presence_penalty != 0.0f || p.frequency_penalty != 0.0f;
  if (has_penalties_) {
    std::vector<int32_t> prompt = request.prompt_tokens;
    std::sort(prompt.begin(), prompt.end());
    prompt.erase(std::unique(prompt.begin(), prompt.end()), prompt.end());
    counts_.reserve(prompt.size() + static_cast<size_t>(max_completion));
    for (const int32_t token : prompt) counts_.push_back({token, 1, 0});
  }
  if (min_tokens_ > 0) {
    for (const int32_t token : request.stop_token_ids) {
      bias_.push_back({token, -std::numeric_limits<float>::infinity()});
    }
  }
  num_stop_bias_ = static_cast<int32_t>(bias_.size());
  for (const auto& [token, bias] : p.logit_bias) bias_.push_back({token, bias});
}

device::SampleRow SamplingState::row(int32_t logits_row) const {
  device::SampleRow row;
  row.logits_row = logits_row;
  row.temperature = params_.temperature;
  row.top_p = params_.top_p;
  row.min_p = params_.min_p;
  row.top_k = params_.top_k;
  row.repetition_penalty = params_.repetition_penalty;
  row.presence_penalty = params_.presence_penalty;
  row.frequency_penalty = params_.frequency_penalty;
  row.counts = counts_.data();
  row.num_counts = static_cast<int32_t>(counts_.size());
  const int32_t skipped = num_generated_ < min_tokens_ ? 0 : num_stop_bias_;
  row.bias = bias_.data() + skipped;
  row.num_bias = static_cast<int32_t>(bias_.size()) - skipped;
  row.seed = params_.seed;
  row.draw_index = static_cast<uint64_t>(num_generated_);
  row.top_logprobs = params_.top_logprobs;
  return row;
}

void SamplingState::append(int32_t token) {
  ++num_generated_;
  if (!has_penalties_) return;
  const auto at =
      std::lower_bound(counts_.begin(), counts_.end(), token,
                       [](const device::TokenCount& c, int32_t value) { return c.token < value; });
  if (at != counts_.end() && at->token == token) {
    ++at->output_count;
  } else {
    counts_.insert(at, {token, 0, 1});
  }
}

}  // namespace nibble::runtime
