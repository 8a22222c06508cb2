// The grouped expert kernels on a level's engine. Included in an anonymous namespace of the level.

struct alignas(64) GateUpAccumulators {
  float values[2 * kMoeTaskRows * kPanelRows];
};

inline int64_t moe_tile_rows(LinearArithmetic arithmetic, PanelFormat format) {
  return kLinearKernels.tile_rows[static_cast<int>(arithmetic)][static_cast<int>(format)];
}

inline int64_t moe_packed_element_bytes(LinearArithmetic arithmetic) {
  return arithmetic == LinearArithmetic::f32 ? 4 : kLinearKernels.exact_element_bytes;
}

// The rows of a task in packed form: in scratch, or in place where one row already has it.
const void* pack_task_rows(const MoeGateUpArgs& args, const MoeTask& task, void* scratch) {
  const bool is_f32 = args.arithmetic == LinearArithmetic::f32;
  const int64_t element_bytes = is_f32 ? 4 : 2;
  const int32_t* slots = args.sorted_slots + task.begin;
  if (task.end - task.begin == 1 && args.hidden % kBlockK == 0 &&
      moe_packed_element_bytes(args.arithmetic) == element_bytes) {
    const int64_t row = slots[0] / args.slots_per_row;
    return static_cast<const unsigned char*>(args.x) + row * args.x_stride * element_bytes;
  }
  pack_tiles({.x = args.x,
              .x_stride = args.x_stride,
              .indices = slots,
              .index_divisor = args.slots_per_row,
              .rows = task.end - task.begin,
              .k = args.hidden,
              .tile_rows = moe_tile_rows(args.arithmetic, args.format),
              .arithmetic = args.arithmetic,
              .out = scratch});
  return scratch;
}

// silu(gate) * up of one row of one panel pair.
void finish_gate_up(const MoeGateUpArgs& args, const float* gate, const float* up,
                    const float* scales, int64_t slot, int64_t panel) {
  float act[kPanelRows];
  for (int i = 0; i < kPanelRows; ++i) {
    act[i] = silu(gate[i] * scales[0]) * (up[i] * scales[1]);
  }
  const int64_t column = panel * kPanelRows;
  const int64_t left = args.intermediate - column;
  const int64_t count = left < kPanelRows ? left : kPanelRows;
  if (args.arithmetic == LinearArithmetic::f32) {
    float* out = static_cast<float*>(args.out) + slot * args.out_stride + column;
    for (int64_t i = 0; i < count; ++i) out[i] = act[i];
    return;
  }
  uint16_t* out = static_cast<uint16_t*>(args.out) + slot * args.out_stride + column;
  uint16_t rounded[kPanelRows];
  for (int i = 0; i < kPanelRows; ++i) rounded[i] = round_to_bf16(act[i]);
  for (int64_t i = 0; i < count; ++i) out[i] = rounded[i];
}

void gate_up(const MoeGateUpArgs& args, const MoeTask& task, void* scratch) noexcept {
  GateUpAccumulators acc;
  const int64_t rows = task.end - task.begin;
  const float* scales = args.tensor_scales + 2 * task.expert;
  const bool exact = args.arithmetic == LinearArithmetic::exact;
  const float final_scales[2] = {exact ? scales[0] : 1.0f, exact ? scales[1] : 1.0f};
  PanelJob job;
  job.x = pack_task_rows(args, task, scratch);
  job.format = args.format;
  job.arithmetic = args.arithmetic;
  job.blocks = (args.hidden + kBlockK - 1) / kBlockK;
  job.panel_bytes = level_panel_bytes(args.format, job.blocks);
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
  const int64_t blocks = (args.intermediate + kBlockK - 1) / kBlockK;
  const int64_t row_bytes = blocks * kBlockK * moe_packed_element_bytes(args.arithmetic);
  pack_tiles({.x = args.x,
              .x_stride = args.x_stride,
              .indices = args.sorted_slots + task.begin,
              .index_divisor = 1,
              .rows = task.end - task.begin,
              .k = args.intermediate,
              .tile_rows = moe_tile_rows(args.arithmetic, args.format),
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
void combine_row(const MoeDownArgs& args, const float* panel_acc, int64_t row, int64_t panel) {
  float sum[kPanelRows] = {};
  for (int64_t s = 0; s < args.slots_per_row; ++s) {
    const int64_t slot = row * args.slots_per_row + s;
    const int64_t position = args.slot_positions[slot];
    const float weight = args.slot_weights == nullptr ? 1.0f : args.slot_weights[slot];
    const float* acc = panel_acc + position * kPanelRows;
    for (int i = 0; i < kPanelRows; ++i) sum[i] += weight * acc[i];
  }
  const int64_t column = panel * kPanelRows;
  const int64_t left = args.hidden - column;
  float* out = args.out + row * args.out_stride + column;
  for (int64_t i = 0; i < (left < kPanelRows ? left : kPanelRows); ++i) out[i] = sum[i];
}

void down_combine(const MoeDownArgs& args, int64_t panel_begin, int64_t panel_end,
                  void* scratch) noexcept {
  const int64_t slots = args.rows * args.slots_per_row;
  PanelJob job;
  job.format = args.format;
  job.arithmetic = args.arithmetic;
  job.blocks = (args.intermediate + kBlockK - 1) / kBlockK;
  job.panel_bytes = level_panel_bytes(args.format, job.blocks);
  job.num_panels = panel_end - panel_begin;
  job.acc_panel_stride = slots * kPanelRows;
  float* acc = static_cast<float*>(scratch);
  const unsigned char* first_panel = args.weights + panel_begin * job.panel_bytes;
  const int64_t row_bytes = job.blocks * kBlockK * moe_packed_element_bytes(args.arithmetic);
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
