// The dense linear kernel on a level's engine. Included in an anonymous namespace of the level,
// after common/vec.inl and common/panel_job.inl.
//
// Panels go through the engine in groups whose accumulators fit the stack buffer; then the tensor
// scale, the addition or the rounding to BF16.

constexpr int64_t kAccRows = 2 * kMaxRangeRows;  // accumulator rows of one panel group
constexpr int64_t kMaxGroupPanels = 16;

struct alignas(64) LinearAccumulators {
  float values[kAccRows * kPanelRows];
};

// One row of one panel: `count` accumulators to y[index, index + count).
inline void finish_row(const LinearArgs& args, const float* acc, int64_t count, int64_t index) {
  // f32 arithmetic has the tensor scale in its weights.
  const float scale = args.arithmetic == LinearArithmetic::exact ? args.tensor_scale : 1.0f;
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t lanes = count - i < kLanes ? count - i : kLanes;
    Vec value = v_load(acc + i) * v_set(scale);
    if (args.accumulate) value = v_load_element(args.y, Element::f32, index + i, lanes) + value;
    v_store_element(args.y, args.y_type, index + i, value, lanes);
  }
}

void finish_panel(const LinearArgs& args, const float* acc, const LinearRange& range,
                  int64_t panel) {
  const int64_t column = panel * kPanelRows;
  const int64_t left = args.n - column;
  for (int64_t row = range.row_begin; row < range.row_end; ++row) {
    const float* line = acc + (row - range.row_begin) * kPanelRows;
    // The constant count lets the compiler unroll the whole panel's case.
    if (left >= kPanelRows) {
      finish_row(args, line, kPanelRows, row * args.y_stride + column);
    } else {
      finish_row(args, line, left, row * args.y_stride + column);
    }
  }
}

void pack_rows(const LinearArgs& args, void* x_packed, int64_t row_begin,
               int64_t row_end) noexcept {
  const int64_t offset = row_begin * args.x_stride * row_element_bytes(args.arithmetic);
  const int64_t packed_offset = row_begin * packed_row_bytes(args.arithmetic, args.k);
  pack_tiles({.x = static_cast<const unsigned char*>(args.x) + offset,
              .x_stride = args.x_stride,
              .indices = nullptr,
              .index_divisor = 1,
              .rows = row_end - row_begin,
              .k = args.k,
              .tile_rows = tile_rows(args.arithmetic, args.format),
              .arithmetic = args.arithmetic,
              .out = static_cast<unsigned char*>(x_packed) + packed_offset});
}

// Panels of one group for so many rows: full engine groups of four or two, at least two fit.
inline int64_t group_panels(int64_t rows) {
  const int64_t fitting = kAccRows / rows;
  if (fitting >= kMaxGroupPanels) return kMaxGroupPanels;
  return fitting >= 4 ? fitting / 4 * 4 : 2;
}

void linear(const LinearArgs& args, const LinearRange& range) noexcept {
  LinearAccumulators acc;
  const int64_t rows = range.row_end - range.row_begin;
  const int64_t group = group_panels(rows);
  PanelJob job = panel_job(args.format, args.arithmetic, args.k);
  job.decode_scales[0] = job.decode_scales[1] = args.tensor_scale;
  job.x = static_cast<const unsigned char*>(args.x_packed) +
          range.row_begin * packed_row_bytes(args.arithmetic, args.k);
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
