// The short convolution; included inside an anonymous namespace per ISA level.
//
// An item is a block of channels: its taps are laid out once, then rows go by with channels in the
// vector lanes. Tap order in the sum: oldest column first.

/// Columns of one channel block: the window, then the rows of this step.
struct ConvColumns {
  const ShortConvArgs& args;
  int64_t channel;
  int64_t count;  // channels of the block
  size_t element_bytes;

  /// Column t of the step, t >= -columns; null stands for zeros.
  const unsigned char* column(int64_t t) const {
    const void* base = t >= 0 ? args.x : args.window_in;
    if (base == nullptr) return nullptr;
    const int64_t row = t >= 0 ? args.first_row + t : args.columns + t;
    return static_cast<const unsigned char*>(base) +
           static_cast<size_t>(row * args.channels + channel) * element_bytes;
  }

  /// The window after `tokens` of the step's tokens. In place it is right: columns move towards
  /// the front only.
  void write_window(void* window, int64_t tokens) const {
    auto* out = static_cast<unsigned char*>(window);
    const size_t bytes = static_cast<size_t>(count) * element_bytes;
    for (int64_t c = 0; c < args.columns; ++c) {
      unsigned char* target =
          out + static_cast<size_t>(c * args.channels + channel) * element_bytes;
      const unsigned char* source = column(tokens - args.columns + c);
      if (source == nullptr) {
        __builtin_memset(target, 0, bytes);
      } else if (source != target) {
        __builtin_memcpy(target, source, bytes);
      }
    }
  }
};

void short_conv(const ShortConvArgs& args, int64_t item) noexcept {
  const int64_t channel = item * kConvChannelBlock;
  const int64_t left = args.channels - channel;
  const int64_t count = left < kConvChannelBlock ? left : kConvChannelBlock;
  const ConvColumns columns{args, channel, count, args.type == Element::bf16 ? 2u : 4u};

  alignas(64) float taps[kMaxConvKernel][kConvChannelBlock];
  for (int64_t c = 0; c < count; ++c) {
    for (int64_t j = 0; j < args.kernel; ++j) {
      taps[j][c] = args.weight[(channel + c) * args.kernel + j];
    }
  }
  alignas(64) static const unsigned char zeros[kConvChannelBlock * sizeof(float)] = {};
  for (int64_t t = 0; t < args.q_len; ++t) {
    const unsigned char* sources[kMaxConvKernel];
    for (int64_t j = 0; j < args.kernel; ++j) {
      const unsigned char* source = columns.column(t - args.kernel + 1 + j);
      sources[j] = source == nullptr ? zeros : source;
    }
    float* out = args.out + (args.first_row + t) * args.channels + channel;
    for_vectors(count, [&](int64_t c, int64_t lanes) {
      Vec sum = v_load_element(sources[0], args.type, c, lanes) * v_load_part(taps[0] + c, lanes);
      for (int64_t j = 1; j < args.kernel; ++j) {
        sum = v_fma(v_load_element(sources[j], args.type, c, lanes),
                    v_load_part(taps[j] + c, lanes), sum);
      }
      v_store_part(out + c, v_silu(sum), lanes);
    });
  }
  for (int64_t i = 0; i < args.num_saves; ++i) {
    const StateSaveRequest& save = args.saves[i];
    if (save.sequence != args.sequence) continue;
    columns.write_window(
        static_cast<unsigned char*>(args.window_pool) + save.slot * args.window_stride_bytes,
        save.num_tokens - args.start);
  }
  columns.write_window(args.window_out, args.q_len);
}
