// The dense linear kernel on a level's engine. Included in an anonymous namespace of the level.
//
// Panels go through the engine in groups whose accumulators fit the stack buffer; then the tensor
// scale, the addition or the rounding to BF16. Plain loops: the compiler's vectoriser does them
// well.

constexpr int64_t kAccRows = 4 * kMaxRangeRows / 2;  // accumulator rows of one panel group
constexpr int64_t kMaxGroupPanels = 16;

struct alignas(64) LinearAccumulators {
  float values[kAccRows * kPanelRows];
};

// One row of one panel: count values of acc to y[0, count).
void finish_row(const LinearArgs& args, const float* acc, int64_t count, int64_t y_offset) {
  // f32 arithmetic has the tensor scale in its weights.
  const float scale = args.arithmetic == LinearArithmetic::exact ? args.tensor_scale : 1.0f;
  if (args.y_type == Element::bf16) {
    uint16_t* y = static_cast<uint16_t*>(args.y) + y_offset;
    for (int64_t i = 0; i < count; ++i) y[i] = round_to_bf16(acc[i] * scale);
    return;
  }
  float* y = static_cast<float*>(args.y) + y_offset;
  if (args.accumulate) {
    for (int64_t i = 0; i < count; ++i) y[i] += acc[i] * scale;
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = acc[i] * scale;
  }
}

void finish_panel(const LinearArgs& args, const float* acc, const LinearRange& range,
                  int64_t panel) {
  const int64_t column = panel * kPanelRows;
  const int64_t left = args.n - column;
  for (int64_t row = range.row_begin; row < range.row_end; ++row) {
    const int64_t offset = row * args.y_stride + column;
    const float* line = acc + (row - range.row_begin) * kPanelRows;
    // The constant count lets the compiler unroll the whole panel's case.
    if (left >= kPanelRows) {
      finish_row(args, line, kPanelRows, offset);
    } else {
      finish_row(args, line, left, offset);
    }
  }
}

void pack_rows(const LinearArgs& args, void* x_packed, int64_t row_begin,
               int64_t row_end) noexcept {
  const int64_t element_bytes = args.arithmetic == LinearArithmetic::f32 ? 4 : 2;
  const int64_t packed_bytes =
      args.arithmetic == LinearArithmetic::f32 ? 4 : kLinearKernels.exact_element_bytes;
  const int64_t blocks = (args.k + kBlockK - 1) / kBlockK;
  PackTilesArgs pack;
  pack.x = static_cast<const unsigned char*>(args.x) + row_begin * args.x_stride * element_bytes;
  pack.x_stride = args.x_stride;
  pack.indices = nullptr;
  pack.index_divisor = 1;
  pack.rows = row_end - row_begin;
  pack.k = args.k;
  pack.tile_rows =
      kLinearKernels.tile_rows[static_cast<int>(args.arithmetic)][static_cast<int>(args.format)];
  pack.arithmetic = args.arithmetic;
  pack.out = static_cast<unsigned char*>(x_packed) + row_begin * blocks * kBlockK * packed_bytes;
  pack_tiles(pack);
}

void linear(const LinearArgs& args, const LinearRange& range) noexcept {
  LinearAccumulators acc;
  const int64_t rows = range.row_end - range.row_begin;
  int64_t group = kAccRows / rows;
  if (group > kMaxGroupPanels) group = kMaxGroupPanels;
  const int64_t packed_bytes =
      args.arithmetic == LinearArithmetic::f32 ? 4 : kLinearKernels.exact_element_bytes;
  PanelJob job;
  job.format = args.format;
  job.arithmetic = args.arithmetic;
  job.blocks = (args.k + kBlockK - 1) / kBlockK;
  job.panel_bytes = level_panel_bytes(args.format, job.blocks);
  job.decode_scales[0] = job.decode_scales[1] = args.tensor_scale;
  job.x = static_cast<const unsigned char*>(args.x_packed) +
          range.row_begin * job.blocks * kBlockK * packed_bytes;
  job.rows = rows;
  job.acc = acc.values;
  job.acc_panel_stride = rows * kPanelRows;
  for (int64_t panel = range.panel_begin; panel < range.panel_end; panel += group) {
    const int64_t left = range.panel_end - panel;
    job.num_panels = left < group ? left : group;
    job.weights = args.weights + panel * job.panel_bytes;
    accumulate_panels(job);
    for (int64_t p = 0; p < job.num_panels; ++p) {
      finish_panel(args, acc.values + p * job.acc_panel_stride, range, panel + p);
    }
  }
}
