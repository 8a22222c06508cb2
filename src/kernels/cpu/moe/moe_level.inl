// The grouped expert kernels on a level's engine. Included in an anonymous namespace of the level,
// after common/math.inl and common/panel_job.inl.

struct alignas(64) GateUpAccumulators {
  float values[2 * kMoeTaskRows * kPanelRows];
};

// The rows of a task in packed form: in scratch, or in place where one row already has it.
const void* pack_task_rows(const MoeGateUpArgs& args, const MoeTask& task, void* scratch) {
  const int64_t element_bytes = row_element_bytes(args.arithmetic);
  const int32_t* slots = args.sorted_slots + task.begin;
  if (task.end - task.begin == 1 && args.hidden % kBlockK == 0 &&
      packed_element_bytes(args.arithmetic) == element_bytes) {
    const int64_t row = slots[0] / args.slots_per_row;
    return static_cast<const unsigned char*>(args.x) + row * args.x_stride * element_bytes;
  }
  pack_tiles({.x = args.x,
              .x_stride = args.x_stride,
              .indices = slots,
              .index_divisor = args.slots_per_row,
              .rows = task.end - task.begin,
              .k = args.hidden,
              .tile_rows = tile_rows(args.arithmetic, args.format),
              .arithmetic = args.arithmetic,
              .out = scratch});
  return scratch;
}

// silu(gate) * up of one row of one panel pair.
inline void finish_gate_up(const MoeGateUpArgs& args, const float* gate, const float* up,
                           const float* scales, int64_t slot, int64_t panel) {
  const int64_t column = panel * kPanelRows;
  const int64_t left = args.intermediate - column;
  const int64_t count = left < kPanelRows ? left : kPanelRows;
  const Element type = args.arithmetic == LinearArithmetic::f32 ? Element::f32 : Element::bf16;
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t lanes = count - i < kLanes ? count - i : kLanes;
    const Vec act =
        v_silu(v_load(gate + i) * v_set(scales[0])) * (v_load(up + i) * v_set(scales[1]));
    v_store_element(args.out, type, slot * args.out_stride + column + i, act, lanes);
  }
}

void gate_up(const MoeGateUpArgs& args, const MoeTask& task, void* scratch) noexcept {
  GateUpAccumulators acc;
  const int64_t rows = task.end - task.begin;
  const float* scales = args.tensor_scales + 2 * task.expert;
  const bool exact = args.arithmetic == LinearArithmetic::exact;
  const float final_scales[2] = {exact ? scales[0] : 1.0f, exact ? scales[1] : 1.0f};
  PanelJob job = panel_job(args.format, args.arithmetic, args.hidden);
  job.x = pack_task_rows(args, task, scratch);
  job.decode_scales[0] = scales[0];
  job.decode_scales[1] = scales[1];
  job.num_panels = 2;
  job.rows = rows;
  job.acc = acc.values;
  job.acc_panel_stride = rows * kPanelRows;
  const unsigned char* weights = args.weights + task.expert * args.expert_stride_bytes;
  for (int64_t panel = task.panel_begin; panel < task.panel_end; ++panel) {
    job.weights = weights + 2 * panel * job.panel_bytes;
    accumulate_panels(job);
    for (int64_t row = 0; row < rows; ++row) {
      finish_gate_up(args, acc.values + row * kPanelRows,
                     acc.values + job.acc_panel_stride + row * kPanelRows, final_scales,
                     args.sorted_slots[task.begin + row], panel);
    }
  }
}

void pack_slots(const MoeDownArgs& args, const MoeTask& task) noexcept {
  const int64_t row_bytes = packed_row_bytes(args.arithmetic, args.intermediate);
  pack_tiles({.x = args.x,
              .x_stride = args.x_stride,
              .indices = args.sorted_slots + task.begin,
              .index_divisor = 1,
              .rows = task.end - task.begin,
              .k = args.intermediate,
              .tile_rows = tile_rows(args.arithmetic, args.format),
              .arithmetic = args.arithmetic,
              .out = static_cast<unsigned char*>(args.x_packed) + task.begin * row_bytes});
}

void scale_accumulators(const PanelJob& job, float scale) {
  for (int64_t panel = 0; panel < job.num_panels; ++panel) {
    float* acc = job.acc + panel * job.acc_panel_stride;
    for (int64_t i = 0; i < job.rows * kPanelRows; ++i) acc[i] *= scale;
  }
}

// One row of one panel: the slots' accumulators in slot order.
inline void combine_row(const MoeDownArgs& args, const float* panel_acc, int64_t row,
                        int64_t panel) {
  const int64_t column = panel * kPanelRows;
  const int64_t left = args.hidden - column;
  const int64_t count = left < kPanelRows ? left : kPanelRows;
  Vec sum[kPanelRows / kLanes] = {};
  for (int64_t s = 0; s < args.slots_per_row; ++s) {
    const int64_t slot = row * args.slots_per_row + s;
    const Vec weight = v_set(args.slot_weights == nullptr ? 1.0f : args.slot_weights[slot]);
    const float* acc = panel_acc + args.slot_positions[slot] * kPanelRows;
    for (int i = 0; i < kPanelRows / kLanes; ++i) sum[i] += weight * v_load(acc + i * kLanes);
  }
  float* out = args.out + row * args.out_stride + column;
  for (int64_t i = 0; i < count; i += kLanes) {
    v_store_part(out + i, sum[i / kLanes], count - i < kLanes ? count - i : kLanes);
  }
}

void down_combine(const MoeDownArgs& args, int64_t panel_begin, int64_t panel_end,
                  void* scratch) noexcept {
  const int64_t slots = args.rows * args.slots_per_row;
  PanelJob job = panel_job(args.format, args.arithmetic, args.intermediate);
  job.num_panels = panel_end - panel_begin;
  job.acc_panel_stride = slots * kPanelRows;
  float* acc = static_cast<float*>(scratch);
  const unsigned char* first_panel = args.weights + panel_begin * job.panel_bytes;
  const int64_t row_bytes = packed_row_bytes(args.arithmetic, args.intermediate);
  for (int64_t t = 0; t < args.num_tasks; ++t) {
    const MoeTask& task = args.tasks[t];
    job.weights = first_panel + task.expert * args.expert_stride_bytes;
    job.decode_scales[0] = job.decode_scales[1] = args.tensor_scales[task.expert];
    job.x = static_cast<const unsigned char*>(args.x_packed) + task.begin * row_bytes;
    job.rows = task.end - task.begin;
    job.acc = acc + task.begin * kPanelRows;
    accumulate_panels(job);
    if (args.arithmetic == LinearArithmetic::exact) {
      scale_accumulators(job, args.tensor_scales[task.expert]);
    }
  }
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const float* panel_acc = acc + (panel - panel_begin) * job.acc_panel_stride;
    for (int64_t row = 0; row < args.rows; ++row) combine_row(args, panel_acc, row, panel);
  }
}
