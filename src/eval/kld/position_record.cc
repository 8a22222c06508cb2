#include "eval/kld/position_record.h"

#include "eval/softmax.h"

#include <algorithm>
#include <cmath>

namespace nibble::eval {
namespace {

constexpr size_t kTop = 5;

// P (ln P - ln Q); 0 for P = 0.
double term(double ln_p, double ln_q) {
  const double p = std::exp(ln_p);
  return p == 0 ? 0 : p * (ln_p - ln_q);
}

int32_t rank_of(std::span<const float> values, int32_t id) {
  const float mine = values[static_cast<size_t>(id)];
  int32_t rank = 1;
  for (size_t v = 0; v < values.size(); ++v) {
    rank += values[v] > mine || (values[v] == mine && v < static_cast<size_t>(id));
  }
  return rank;
}

int32_t common_members(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  return static_cast<int32_t>(std::count_if(a.begin(), a.end(), [&](int32_t id) {
    return std::find(b.begin(), b.end(), id) != b.end();
  }));
}

// What does not depend on how the base is kept.
void fill_ranks(const std::vector<int32_t>& base_best, const LogProbRow& model, int32_t token,
                PositionRecord& record) {
  const std::vector<int32_t> best = best_ids(model.values, kTop);
  record.token = token;
  record.nll = -model.ln(token);
  record.top = best.front();
  record.base_top = base_best.front();
  record.rank = record.base_top == record.top ? 1 : rank_of(model.values, record.base_top);
  record.top5_overlap = common_members(base_best, best);
}

}  // namespace

LogProbRow normalized(std::span<const float> logits) {
  return {logits, log_sum_exp(logits)};
}

double PositionRecord::probability() const {
  return std::exp(-nll);
}

double PositionRecord::base_probability() const {
  return std::exp(-base_nll);
}

std::vector<int32_t> best_ids(std::span<const float> values, size_t count) {
  std::vector<int32_t> best;
  for (size_t v = 0; v < values.size(); ++v) {
    if (best.size() == count && !(values[v] > values[static_cast<size_t>(best.back())])) continue;
    size_t at = best.size();
    while (at > 0 && values[v] > values[static_cast<size_t>(best[at - 1])]) --at;
    best.insert(best.begin() + static_cast<std::ptrdiff_t>(at), static_cast<int32_t>(v));
    if (best.size() > count) best.pop_back();
  }
  return best;
}

PositionRecord compare_position(const LogProbRow& base, const LogProbRow& model, int32_t token,
                                double least_ln_p) {
  PositionRecord record;
  const auto vocab = static_cast<int32_t>(base.values.size());
  for (int32_t v = 0; v < vocab; ++v) {
    const double ln_p = base.ln(v);
    if (!(ln_p > least_ln_p)) continue;
    record.kld += term(ln_p, model.ln(v));
    record.entropy -= term(ln_p, 0);
  }
  record.base_nll = -base.ln(token);
  fill_ranks(best_ids(base.values, kTop), model, token, record);
  return record;
}

PositionRecord compare_with_rest(std::span<const float> base_ln_p, double ln_rest,
                                 const LogProbRow& model, int32_t token) {
  const double kept = log_sum_exp(base_ln_p);
  const double all = kept + std::log1p(std::exp(ln_rest - kept));
  PositionRecord record = compare_position({base_ln_p, all}, model, token);
  double rest_of_model = 0;
  for (size_t v = 0; v < base_ln_p.size(); ++v) {
    if (std::isinf(base_ln_p[v])) rest_of_model += std::exp(model.ln(static_cast<int32_t>(v)));
  }
  record.kld += term(ln_rest - all, std::log(rest_of_model));
  record.entropy -= term(ln_rest - all, 0);
  return record;
}

PositionRecord compare_top_entries(const TopEntries& base, const LogProbRow& model, int32_t token) {
  PositionRecord record;
  double rest_of_model = 0;  // summed over the others themselves: 1 - kept would cancel
  size_t next = 0;
  for (size_t v = 0; v < model.values.size(); ++v) {
    const double ln_q = model.ln(static_cast<int32_t>(v));
    if (next < base.ids.size() && base.ids[next] == static_cast<int32_t>(v)) {
      record.kld += term(static_cast<double>(base.ln_p[next]), ln_q);
      ++next;
    } else {
      rest_of_model += std::exp(ln_q);
    }
  }
  record.kld += term(static_cast<double>(base.ln_rest), std::log(rest_of_model));
  record.entropy = static_cast<double>(base.entropy);
  record.base_nll = -static_cast<double>(base.token_ln_p);
  std::vector<int32_t> base_best = best_ids(base.ln_p, kTop);
  for (int32_t& index : base_best) index = base.ids[static_cast<size_t>(index)];
  fill_ranks(base_best, model, token, record);
  return record;
}

}  // namespace nibble::eval
