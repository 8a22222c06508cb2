// The block operations written once in small operations: the default of every device and the oracle
// of fused blocks.
//
// Reads top to bottom like the model's formulas (spec qwen3_5_moe.md 3). With an Observer in the
// plan, every named intermediate is reported and each block's output is formed apart before it is
// added.
#include "device/device.h"
#include "device/observer.h"

#include <string_view>
#include <vector>

namespace nibble::device {
namespace {

// The first `rows` rows of a workspace buffer.
TensorView rows_of(const TensorView& buffer, int64_t rows) {
  return buffer.slice_rows(0, rows);
}

}  // namespace

void Device::report(const StepPlan& plan, int layer, std::string_view name,
                    ConstTensorView tensor) {
  if (plan.observer == nullptr) return;
  if (shares_host_memory()) {
    plan.observer->observe(layer, name, tensor);
    return;
  }
  std::vector<std::byte> host(tensor.bytes());
  download(host, tensor.data());
  synchronize();
  plan.observer->observe(layer, name, ConstTensorView(host.data(), tensor.dtype(), tensor.shape()));
}

void Device::project_out(const StepPlan& plan, int layer, ConstTensorView x,
                         const PackedLinear& weight, TensorView out, Accumulate accumulate) {
  if (plan.observer == nullptr) {
    project(plan, x, weight, out, accumulate);
    return;
  }
  const TensorView mixed = rows_of(workspace_.routed, plan.num_rows);
  project(plan, x, weight, mixed, Accumulate::replace);
  report(plan, layer, "mixer_out", mixed);
  add(mixed, out, accumulate);
}

void Device::attention_block(const StepPlan& plan, const AttentionWeights& weights,
                             const KvLayer& cache, ConstTensorView residual, TensorView out,
                             Accumulate accumulate) {
  const int64_t rows = plan.num_rows;
  const int layer = weights.layer;
  const TensorView norm = rows_of(workspace_.norm, rows);
  const TensorView q_gate = rows_of(workspace_.q_gate, rows);
  const TensorView q = rows_of(workspace_.q, rows);
  const TensorView gate = rows_of(workspace_.gate, rows);
  const TensorView k = rows_of(workspace_.k, rows);
  const TensorView v = rows_of(workspace_.v, rows);
  const TensorView core = rows_of(workspace_.attention_core, rows);
  const TensorView gated = rows_of(workspace_.gated, rows);

  rms_norm(residual, weights.input_norm, norm);
  report(plan, layer, "in_norm", norm);
  project(plan, norm, weights.q_proj, q_gate, Accumulate::replace);
  project(plan, norm, weights.k_proj, k, Accumulate::replace);
  project(plan, norm, weights.v_proj, v, Accumulate::replace);
  qk_norm_rope(plan, weights, q_gate, q, gate, k);
  report(plan, layer, "attn.q", q);
  report(plan, layer, "attn.k", k);
  report(plan, layer, "attn.v", v);
  report(plan, layer, "attn.gate", gate);
  kv_store(plan, weights, cache, k, v);
  attention(plan, weights, cache, q, core);
  report(plan, layer, "attn.core", core);
  sigmoid_gate(core, gate, gated);
  report(plan, layer, "attn.gated", gated);
  project_out(plan, layer, gated, weights.o_proj, out, accumulate);
}

void Device::delta_net_block(const StepPlan& plan, const DeltaNetWeights& weights,
                             const StateLayer& cache, ConstTensorView residual, TensorView out,
                             Accumulate accumulate) {
  const int64_t rows = plan.num_rows;
  const int layer = weights.layer;
  const TensorView norm = rows_of(workspace_.norm, rows);
  const TensorView qkv_pre = rows_of(workspace_.qkv_pre, rows);
  const TensorView qkv = rows_of(workspace_.qkv, rows);
  const TensorView z = rows_of(workspace_.z, rows);
  const TensorView a = rows_of(workspace_.a, rows);
  const TensorView b = rows_of(workspace_.b, rows);
  const TensorView core = rows_of(workspace_.delta_core, rows);
  const TensorView normed = rows_of(workspace_.delta_normed, rows);

  rms_norm(residual, weights.input_norm, norm);
  report(plan, layer, "in_norm", norm);
  project(plan, norm, weights.in_proj_qkv, qkv_pre, Accumulate::replace);
  project(plan, norm, weights.in_proj_z, z, Accumulate::replace);
  linear(norm, weights.in_proj_a, a, Accumulate::replace);
  linear(norm, weights.in_proj_b, b, Accumulate::replace);
  report(plan, layer, "gdn.qkv_pre", qkv_pre);
  report(plan, layer, "gdn.z", z);
  short_conv(plan, weights, cache, qkv_pre, qkv);
  report(plan, layer, "gdn.qkv_conv", qkv);
  delta_gates(weights, a, b);
  report(plan, layer, "gdn.g", a);
  report(plan, layer, "gdn.beta", b);
  gated_delta(plan, weights, cache, qkv, a, b, core);
  report(plan, layer, "gdn.core", core);
  gated_rms_norm(weights, core, z, normed);
  report(plan, layer, "gdn.normed", normed);
  project_out(plan, layer, normed, weights.out_proj, out, accumulate);
}

void Device::moe_block(const StepPlan& plan, const MoeWeights& weights, ConstTensorView residual,
                       TensorView out, Accumulate accumulate) {
  const int64_t rows = plan.num_rows;
  const int layer = weights.layer;
  const TensorView norm = rows_of(workspace_.norm, rows);
  const TensorView router_logits = rows_of(workspace_.router_logits, rows);
  const TensorView experts = rows_of(workspace_.experts, rows);
  const TensorView expert_weights = rows_of(workspace_.expert_weights, rows);
  const TensorView slots = rows_of(workspace_.slots, rows * weights.num_experts_per_tok);
  const TensorView shared_slots = rows_of(workspace_.shared_slots, rows);
  const TensorView routed = rows_of(workspace_.routed, rows);
  const TensorView shared = rows_of(workspace_.shared, rows);
  const TensorView shared_gate = rows_of(workspace_.shared_gate, rows);

  rms_norm(residual, weights.post_norm, norm);
  report(plan, layer, "post_norm", norm);
  linear(norm, weights.router, router_logits, Accumulate::replace);
  report(plan, layer, "moe.router_logits", router_logits);
  const int32_t* forced = plan.observer == nullptr ? nullptr : plan.observer->forced_experts(layer);
  moe_route(router_logits, forced, experts, expert_weights);
  report(plan, layer, "moe.experts", experts);
  report(plan, layer, "moe.weights", expert_weights);
  if (plan.routing_log != nullptr) {
    copy(
        reinterpret_cast<std::byte*>(plan.routing_log + layer * rows * weights.num_experts_per_tok),
        experts.data(), experts.bytes());
  }
  moe_gate_up(plan, norm, weights.gate_up, experts, slots);
  report(plan, layer, "moe.slots", slots);
  moe_down_combine(plan, slots, weights.down, experts, expert_weights, routed);
  report(plan, layer, "moe.routed", routed);
  moe_gate_up(plan, norm, weights.shared_gate_up, ConstTensorView(), shared_slots);
  report(plan, layer, "moe.shared_slots", shared_slots);
  moe_down_combine(plan, shared_slots, weights.shared_down, ConstTensorView(), ConstTensorView(),
                   shared);
  report(plan, layer, "moe.shared_raw", shared);
  linear(norm, weights.shared_expert_gate, shared_gate, Accumulate::replace);
  moe_add_shared(routed, shared, shared_gate, out, accumulate);
  report(plan, layer, "moe.shared_gate", shared_gate);
}

void Device::head(const StepPlan& plan, const HeadWeights& weights, ConstTensorView hidden,
                  TensorView normed_out, int64_t first, TensorView logits) {
  if (!normed_out.empty()) rms_norm(hidden, weights.final_norm, normed_out);
  const int64_t count = logits.rows();
  NIBBLE_CHECK(first >= 0 && first + count <= plan.num_logit_rows, "head rows", first, count,
               plan.num_logit_rows);
  const TensorView rows = rows_of(workspace_.head_rows, count);
  const TensorView norm = rows_of(workspace_.head_norm, count);
  gather_rows(hidden, plan.logit_rows + first, rows);
  rms_norm(rows, weights.final_norm, norm);
  report(plan, -1, "final_norm", norm);
  linear(norm, weights.lm_head, logits, Accumulate::replace);
  report(plan, -1, "logits", logits);
}

}  // namespace nibble::device
