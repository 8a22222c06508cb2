// Packing of activation rows for one engine. Included in an anonymous namespace.
//
// kExactBf16: whether exact arithmetic keeps BF16 elements (otherwise they are widened to f32).

// Copies n elements and pads with zeros to a block; In and Out differ when BF16 is widened.
template <typename Out, typename In>
void pack_block(const In* in, int64_t n, Out* out) {
  for (int64_t i = 0; i < kBlockK; ++i) {
    if (i >= n) {
      out[i] = Out{0};
    } else if constexpr (sizeof(In) == sizeof(Out)) {
      out[i] = in[i];
    } else {
      out[i] = __builtin_bit_cast(float, static_cast<uint32_t>(in[i]) << 16);
    }
  }
}

template <typename Out, typename In>
void pack_tiles_as(const PackTilesArgs& args) {
  const In* x = static_cast<const In*>(args.x);
  Out* out = static_cast<Out*>(args.out);
  const int64_t blocks = (args.k + kBlockK - 1) / kBlockK;
  for (int64_t row = 0; row < args.rows; ++row) {
    const int64_t first = row / args.tile_rows * args.tile_rows;
    const int64_t left = args.rows - first;
    const int64_t tile = left < args.tile_rows ? left : args.tile_rows;
    const int64_t source = args.indices == nullptr ? row : args.indices[row] / args.index_divisor;
    const In* in = x + source * args.x_stride;
    Out* tile_out = out + first * blocks * kBlockK + (row - first) * kBlockK;
    const int64_t whole = args.k / kBlockK;
    for (int64_t b = 0; b < whole; ++b) {
      pack_block(in + b * kBlockK, kBlockK, tile_out + b * tile * kBlockK);
    }
    if (whole < blocks) {
      pack_block(in + whole * kBlockK, args.k - whole * kBlockK, tile_out + whole * tile * kBlockK);
    }
  }
}

template <bool kExactBf16>
void pack_tiles_level(const PackTilesArgs& args) {
  if (args.arithmetic == LinearArithmetic::f32) {
    pack_tiles_as<float, float>(args);
  } else if constexpr (kExactBf16) {
    pack_tiles_as<uint16_t, uint16_t>(args);
  } else {
    pack_tiles_as<float, uint16_t>(args);
  }
}
