// What every caller of a level's panel engine fills in the same way. Included in an anonymous
// namespace of the level, after panel_engine.h.

inline int64_t tile_rows(LinearArithmetic arithmetic, PanelFormat format) {
  return kTileRowsOf[static_cast<int>(arithmetic)][static_cast<int>(format)];
}

/// Bytes of one element of unpacked and of packed rows.
inline int64_t row_element_bytes(LinearArithmetic arithmetic) {
  return arithmetic == LinearArithmetic::f32 ? 4 : 2;
}
inline int64_t packed_element_bytes(LinearArithmetic arithmetic) {
  return arithmetic == LinearArithmetic::f32 ? 4 : kExactElementBytes;
}

/// Bytes of one packed row of k elements.
inline int64_t packed_row_bytes(LinearArithmetic arithmetic, int64_t k) {
  return (k + kBlockK - 1) / kBlockK * kBlockK * packed_element_bytes(arithmetic);
}

/// A job with its format and the sizes that follow from k (packed_weights.h: panel_bytes).
inline PanelJob panel_job(PanelFormat format, LinearArithmetic arithmetic, int64_t k) {
  PanelJob job = {};
  job.format = format;
  job.arithmetic = arithmetic;
  job.blocks = (k + kBlockK - 1) / kBlockK;
  if (format == PanelFormat::nvfp4) {
    job.panel_bytes = (job.blocks + 3) / 4 * 576;
  } else {
    job.panel_bytes = job.blocks * (format == PanelFormat::bf16 ? 512 : 256);
  }
  return job;
}
