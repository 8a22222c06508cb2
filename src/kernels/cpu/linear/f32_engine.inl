// The engine on f32 lanes, for every level: panels are decoded to f32 in chunks that stay in L1,
// then multiplied with tiles of kTileRows rows of f32 x.
//
// Included in an anonymous namespace after a lanes_<level>.inl, which defines Lanes (16 floats, one
// per row of a panel), its operations and the line decoders. Exact NVFP4 sums each block of 16 k
// apart and adds block scale * block sum; everything else is one chain over k. Legend: T rows of a
// tile.

constexpr int64_t kChunkBlocks = 16;  // 256 k: 16 KiB of decoded weights

struct DecodedChunk {
  alignas(64) float weights[kChunkBlocks * kBlockK][kPanelRows];
  alignas(64) float scales[kChunkBlocks][kPanelRows];  // exact NVFP4 only
};

void decode_bf16(const unsigned char* panel, int64_t first, int64_t count, DecodedChunk& chunk) {
  const unsigned char* line = panel + first * 512;
  for (int64_t i = 0; i < count * 8; ++i) decode_bf16_line(line + i * 64, chunk.weights[i * 2]);
}

void decode_fp8(const unsigned char* panel, int64_t first, int64_t count, float scale,
                DecodedChunk& chunk) {
  const unsigned char* line = panel + first * 256;
  for (int64_t i = 0; i < count * 4; ++i) {
    decode_fp8_line(line + i * 64, scale, chunk.weights[i * 4]);
  }
}

// f32 arithmetic multiplies each code by fl(block scale * tensor scale); exact keeps them apart.
void decode_nvfp4(const unsigned char* panel, int64_t first, int64_t count, bool exact,
                  float tensor_scale, DecodedChunk& chunk) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t block = first + i;
    const unsigned char* group = panel + block / 4 * 576;
    const Lanes scale = decode_scales(group + 512 + block % 4 * 16);
    const unsigned char* line = group + block % 4 * 128;
    if (exact) {
      store(chunk.scales[i], scale);
      decode_nvfp4_line(line, broadcast(1.0f), chunk.weights[i * 16]);
      decode_nvfp4_line(line + 64, broadcast(1.0f), chunk.weights[i * 16 + 8]);
    } else {
      const Lanes weight_scale = multiply(scale, broadcast(tensor_scale));
      decode_nvfp4_line(line, weight_scale, chunk.weights[i * 16]);
      decode_nvfp4_line(line + 64, weight_scale, chunk.weights[i * 16 + 8]);
    }
  }
}

// The hardware's own prefetch stops at page ends; the next chunk is decoded after this one's
// products.
void prefetch_bytes(const unsigned char* weights, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(weights + i);
}

template <int T>
void multiply_tile(const DecodedChunk& chunk, const float* x, int64_t blocks, float* acc) {
  Lanes sum[T];
  NIBBLE_UNROLL
  for (int t = 0; t < T; ++t) sum[t] = load(acc + t * kPanelRows);
  for (int64_t b = 0; b < blocks; ++b) {
    for (int j = 0; j < kBlockK; ++j) {
      const Lanes w = load(chunk.weights[b * kBlockK + j]);
      const float* column = x + b * T * kBlockK + j;
      NIBBLE_UNROLL
      for (int t = 0; t < T; ++t) {
        sum[t] = multiply_add(w, broadcast(column[t * kBlockK]), sum[t]);
      }
    }
  }
  NIBBLE_UNROLL
  for (int t = 0; t < T; ++t) store(acc + t * kPanelRows, sum[t]);
}

template <int T>
void multiply_tile_scaled(const DecodedChunk& chunk, const float* x, int64_t blocks, float* acc) {
  for (int64_t b = 0; b < blocks; ++b) {
    Lanes sum[T];
    NIBBLE_UNROLL
    for (int t = 0; t < T; ++t) sum[t] = broadcast(0.0f);
    for (int j = 0; j < kBlockK; ++j) {
      const Lanes w = load(chunk.weights[b * kBlockK + j]);
      const float* column = x + b * T * kBlockK + j;
      NIBBLE_UNROLL
      for (int t = 0; t < T; ++t) {
        sum[t] = multiply_add(w, broadcast(column[t * kBlockK]), sum[t]);
      }
    }
    const Lanes scale = load(chunk.scales[b]);
    NIBBLE_UNROLL
    for (int t = 0; t < T; ++t) {
      float* total = acc + t * kPanelRows;
      store(total, multiply_add(scale, sum[t], load(total)));
    }
  }
}

using TileFunction = void (*)(const DecodedChunk&, const float*, int64_t, float*);

// Tile functions by T - 1.
template <int... T>
struct TileFunctions {
  static constexpr TileFunction kPlain[] = {multiply_tile<T>...};
  static constexpr TileFunction kScaled[] = {multiply_tile_scaled<T>...};
};

template <typename LevelTiles>
void accumulate_panel_f32(const PanelJob& job, int64_t panel) {
  const unsigned char* weights = job.weights + panel * job.panel_bytes;
  float* acc = job.acc + panel * job.acc_panel_stride;
  const bool exact = job.arithmetic == LinearArithmetic::exact;
  const float scale = exact ? 1.0f : job.decode_scales[panel % 2];
  const bool scaled = exact && job.format == PanelFormat::nvfp4;
  for (int64_t i = 0; i < job.rows * kPanelRows; ++i) acc[i] = 0.0f;
  DecodedChunk chunk;
  for (int64_t first = 0; first < job.blocks; first += kChunkBlocks) {
    const int64_t left = job.blocks - first;
    const int64_t count = left < kChunkBlocks ? left : kChunkBlocks;
    const int64_t block_bytes = job.panel_bytes / job.blocks;  // about: groups may be padded
    prefetch_bytes(weights + (first + count) * block_bytes, kChunkBlocks * block_bytes);
    if (job.format == PanelFormat::bf16) {
      decode_bf16(weights, first, count, chunk);
    } else if (job.format == PanelFormat::fp8) {
      decode_fp8(weights, first, count, scale, chunk);
    } else {
      decode_nvfp4(weights, first, count, exact, scale, chunk);
    }
    for (int64_t row = 0; row < job.rows; row += kTileRows) {
      const int64_t rows = job.rows - row < kTileRows ? job.rows - row : kTileRows;
      const float* tile = static_cast<const float*>(job.x) + row * job.blocks * kBlockK;
      const TileFunction function =
          scaled ? LevelTiles::kScaled[rows - 1] : LevelTiles::kPlain[rows - 1];
      function(chunk, tile + first * rows * kBlockK, count, acc + row * kPanelRows);
    }
  }
}

template <typename LevelTiles>
void accumulate_panels_f32(const PanelJob& job) {
  for (int64_t panel = 0; panel < job.num_panels; ++panel)
    accumulate_panel_f32<LevelTiles>(job, panel);
}
