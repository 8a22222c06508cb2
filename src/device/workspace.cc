// The activation buffers of one step: sizes from the WorkspaceSpec, laid out once in one
// allocation.
//
// The attention, delta net, MoE and head buffers overlap: only one block runs at a time. `norm` and
// `routed` are shared by all, so they lie outside the overlap.
#include "device/device.h"
#include "device/observer.h"

#include <algorithm>

namespace nibble::device {
namespace {

// Hands out 64-byte aligned buffers behind each other; with a null base it only counts.
class Layout {
 public:
  explicit Layout(std::byte* base) : base_(base) {}

  TensorView take(DType dtype, int64_t rows, int64_t columns) {
    // A counting pass uses addresses that are never dereferenced.
    const TensorView view(base_ == nullptr ? nullptr : base_ + offset_, dtype,
                          Shape{rows, columns});
    offset_ += (view.bytes() + 63) / 64 * 64;
    high_water_ = std::max(high_water_, offset_);
    return view;
  }
  size_t mark() const { return offset_; }
  void rewind(size_t mark) { offset_ = mark; }
  size_t high_water() const { return high_water_; }

 private:
  std::byte* base_;
  size_t offset_ = 0;
  size_t high_water_ = 0;
};

}  // namespace

Device::~Device() = default;

size_t Device::layout_workspace(const WorkspaceSpec& spec, std::byte* base,
                                Workspace* workspace) const {
  Layout layout(base);
  const DType act = activation_dtype();
  const int64_t rows = spec.max_rows;
  const int64_t heads = spec.attention_heads * spec.head_dim;
  const int64_t kv_heads = spec.attention_kv_heads * spec.head_dim;
  const int64_t values = spec.value_heads * spec.value_head_dim;
  const int64_t channels = 2 * spec.key_heads * spec.key_head_dim + values;
  Workspace& w = *workspace;

  w.norm = layout.take(act, rows, spec.hidden_size);
  w.routed = layout.take(DType::f32, rows, spec.hidden_size);
  const size_t shared_start = layout.mark();

  w.q_gate = layout.take(DType::f32, rows, 2 * heads);
  w.q = layout.take(DType::f32, rows, heads);
  w.gate = layout.take(DType::f32, rows, heads);
  w.k = layout.take(DType::f32, rows, kv_heads);
  w.v = layout.take(DType::f32, rows, kv_heads);
  w.attention_core = layout.take(DType::f32, rows, heads);
  w.gated = layout.take(act, rows, heads);

  layout.rewind(shared_start);
  w.qkv_pre = layout.take(act, rows, channels);
  w.qkv = layout.take(DType::f32, rows, channels);
  w.z = layout.take(DType::f32, rows, values);
  w.a = layout.take(DType::f32, rows, spec.value_heads);
  w.b = layout.take(DType::f32, rows, spec.value_heads);
  w.delta_core = layout.take(DType::f32, rows, values);
  w.delta_normed = layout.take(act, rows, values);

  layout.rewind(shared_start);
  w.router_logits = layout.take(DType::f32, rows, spec.num_experts);
  w.experts = layout.take(DType::i32, rows, spec.num_experts_per_tok);
  w.expert_weights = layout.take(DType::f32, rows, spec.num_experts_per_tok);
  w.slots = layout.take(act, rows * spec.num_experts_per_tok, spec.moe_intermediate_size);
  w.shared_slots = layout.take(act, rows, spec.shared_intermediate_size);
  w.shared = layout.take(DType::f32, rows, spec.hidden_size);
  w.shared_gate = layout.take(DType::f32, rows, 1);

  layout.rewind(shared_start);
  w.head_rows = layout.take(DType::f32, rows, spec.hidden_size);
  w.head_norm = layout.take(act, rows, spec.hidden_size);
  return layout.high_water();
}

}  // namespace nibble::device
