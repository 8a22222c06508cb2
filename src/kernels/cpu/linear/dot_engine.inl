// The engine on BF16 pair products (vdpbf16ps), exact arithmetic only. Included in an anonymous
// namespace.
//
// A group of P panels meets a tile of T rows with P * T accumulators in registers. BF16 and FP8 are
// one chain of pair products over k. NVFP4 holds a block's 8 decoded weight vectors in registers,
// sums the block for each row apart, and adds block scale * block sum: decoding costs once per
// tile, not per row. vdpbf16ps treats BF16 denormals as zero; no decoded weight is one (smallest
// E4M3 is 2^-9).

inline __m512bh as_bf16(__m512i words) {
  return reinterpret_cast<__m512bh>(words);
}

inline __m512i load_line(const unsigned char* line) {
  return _mm512_load_si512(line);
}

// Weights come from memory once per tile of rows at best; the hardware's own prefetch stops at page
// ends.
constexpr int64_t kPrefetchBytes = 4608;

template <int64_t N>
inline void prefetch_lines(const unsigned char* line) {
  NIBBLE_UNROLL
  for (int64_t i = 0; i < N; ++i) {
    _mm_prefetch(reinterpret_cast<const char*>(line + i * 64), _MM_HINT_T0);
  }
}

// Elements {k, k + 1} of one row in every lane.
inline __m512bh broadcast_pair(const uint16_t* x) {
  int32_t pair;
  __builtin_memcpy(&pair, x, sizeof pair);
  return as_bf16(_mm512_set1_epi32(pair));
}

// E4M3 in the high byte of each 16-bit lane to BF16, exact; NaN to NaN.
inline __m512i decode_e4m3_bf16(__m512i words) {
  const __m512i magnitude =
      _mm512_and_si512(_mm512_srli_epi16(words, 4), _mm512_set1_epi16(0x07F0));
  const __m512i normal = _mm512_add_epi16(magnitude, _mm512_set1_epi16(120 << 7));
  // Subnormals 0..7 and NaN (0x7F: low five bits 31) come from a table, by the low five bits.
  alignas(64) static constexpr uint16_t kSpecial[32] = {
      0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60, 0, 0, 0, 0, 0, 0, 0, 0,
      0, 0,      0,      0,      0,      0,      0,      0,      0, 0, 0, 0, 0, 0, 0, 0x7FC0};
  const __mmask32 special = _mm512_cmpge_epu16_mask(
      _mm512_sub_epi16(magnitude, _mm512_set1_epi16(0x80)), _mm512_set1_epi16(0x7F0 - 0x80));
  const __m512i value = _mm512_mask_permutexvar_epi16(normal, special, _mm512_srli_epi16(words, 8),
                                                      _mm512_load_si512(kSpecial));
  const __m512i sign = _mm512_set1_epi16(static_cast<short>(0x8000));
  return _mm512_ternarylogic_epi32(sign, words, value, 0xCA);  // sign ? words : value
}

template <PanelFormat F>
constexpr int64_t kBlockBytes = F == PanelFormat::bf16 ? 512 : 256;

// Two pairs {k, k + 1}, {k + 2, k + 3} of one panel.
template <PanelFormat F>
inline void load_two_pairs(const unsigned char* block, int quad, __m512bh (&pairs)[2]) {
  if constexpr (F == PanelFormat::bf16) {
    pairs[0] = as_bf16(load_line(block + quad * 128));
    pairs[1] = as_bf16(load_line(block + quad * 128 + 64));
  } else {
    const __m512i line = load_line(block + quad * 64);
    pairs[0] = as_bf16(decode_e4m3_bf16(_mm512_slli_epi16(line, 8)));
    pairs[1] = as_bf16(decode_e4m3_bf16(line));
  }
}

template <PanelFormat F, int P, int T>
void wide_tile(const PanelJob& job, const unsigned char* weights, const uint16_t* x, float* acc) {
  __m512 sum[P][T];
  NIBBLE_UNROLL
  for (int p = 0; p < P; ++p) {
    NIBBLE_UNROLL
    for (int t = 0; t < T; ++t) sum[p][t] = _mm512_setzero_ps();
  }
  for (int64_t b = 0; b < job.blocks; ++b) {
    NIBBLE_UNROLL
    for (int quad = 0; quad < 4; ++quad) {
      __m512bh w[P][2];
      NIBBLE_UNROLL
      for (int p = 0; p < P; ++p) load_two_pairs<F>(weights + p * job.panel_bytes, quad, w[p]);
      NIBBLE_UNROLL
      for (int j = 0; j < 2; ++j) {
        NIBBLE_UNROLL
        for (int t = 0; t < T; ++t) {
          const __m512bh pair = broadcast_pair(x + t * kBlockK + quad * 4 + j * 2);
          NIBBLE_UNROLL
          for (int p = 0; p < P; ++p) sum[p][t] = _mm512_dpbf16_ps(sum[p][t], w[p][j], pair);
        }
      }
    }
    NIBBLE_UNROLL
    for (int p = 0; p < P; ++p) {
      prefetch_lines<kBlockBytes<F> / 64>(weights + p * job.panel_bytes + kPrefetchBytes);
    }
    weights += kBlockBytes<F>;
    x += T * kBlockK;
  }
  NIBBLE_UNROLL
  for (int p = 0; p < P; ++p) {
    NIBBLE_UNROLL
    for (int t = 0; t < T; ++t) {
      _mm512_store_ps(acc + p * job.acc_panel_stride + t * kPanelRows, sum[p][t]);
    }
  }
}

// Eight weight vectors of one NVFP4 block: pair j of a line is nibble j of both halves of each
// lane.
inline void load_nvfp4_block(const unsigned char* block, __m512i table, __m512bh (&w)[8]) {
  const __m512i first = load_line(block);
  const __m512i second = load_line(block + 64);
  w[0] = as_bf16(_mm512_permutexvar_epi16(first, table));
  w[1] = as_bf16(_mm512_permutexvar_epi16(_mm512_srli_epi16(first, 4), table));
  w[2] = as_bf16(_mm512_permutexvar_epi16(_mm512_srli_epi16(first, 8), table));
  w[3] = as_bf16(_mm512_permutexvar_epi16(_mm512_srli_epi16(first, 12), table));
  w[4] = as_bf16(_mm512_permutexvar_epi16(second, table));
  w[5] = as_bf16(_mm512_permutexvar_epi16(_mm512_srli_epi16(second, 4), table));
  w[6] = as_bf16(_mm512_permutexvar_epi16(_mm512_srli_epi16(second, 8), table));
  w[7] = as_bf16(_mm512_permutexvar_epi16(_mm512_srli_epi16(second, 12), table));
}

// 16 packed scale bytes to f32.
inline __m512 load_block_scales(const unsigned char* bytes) {
  const __m512i codes =
      _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_slli_epi32(codes, 20), _mm512_set1_epi32(117 << 23)));
}

constexpr int kChains = 8;

// Block sums of up to C rows, their chains interleaved: one after the other they would fill the
// scheduler with waiting instructions.
template <int C>
inline void add_block(const __m512bh (&w)[8], const uint16_t* x, __m512 scale, __m512* sum,
                      int rows) {
  __m512 block_sum[C];
  NIBBLE_UNROLL
  for (int c = 0; c < C; ++c) block_sum[c] = _mm512_setzero_ps();
  NIBBLE_UNROLL
  for (int j = 0; j < 8; ++j) {
    NIBBLE_UNROLL
    for (int c = 0; c < C; ++c) {
      if (c < rows)
        block_sum[c] =
            _mm512_dpbf16_ps(block_sum[c], w[j], broadcast_pair(x + c * kBlockK + j * 2));
    }
  }
  NIBBLE_UNROLL
  for (int c = 0; c < C; ++c) {
    if (c < rows) sum[c] = _mm512_fmadd_ps(scale, block_sum[c], sum[c]);
  }
}

template <int T>
void nvfp4_tile(const PanelJob& job, const unsigned char* weights, const uint16_t* x, float* acc) {
  // The table has every value twice: a 16-bit lane's lookup reads five bits, the fifth is the next
  // code's.
  alignas(64) static constexpr uint16_t kValues[32] = {
      0x0000, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040, 0x4080, 0x40C0, 0x8000, 0xBF00, 0xBF80,
      0xBFC0, 0xC000, 0xC040, 0xC080, 0xC0C0, 0x0000, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040,
      0x4080, 0x40C0, 0x8000, 0xBF00, 0xBF80, 0xBFC0, 0xC000, 0xC040, 0xC080, 0xC0C0};
  const __m512i table = _mm512_load_si512(kValues);
  __m512 sum[T];
  NIBBLE_UNROLL
  for (int t = 0; t < T; ++t) sum[t] = _mm512_setzero_ps();
  for (int64_t first = 0; first < job.blocks; first += 4) {
    const int64_t left = job.blocks - first;
    const unsigned char* scales = weights + 512;
    for (int64_t b = 0; b < (left < 4 ? left : 4); ++b) {
      __m512bh w[8];
      load_nvfp4_block(weights + b * 128, table, w);
      const __m512 scale = load_block_scales(scales + b * 16);
      NIBBLE_UNROLL
      for (int first_row = 0; first_row < T; first_row += kChains) {
        add_block<(T < kChains ? T : kChains)>(w, x + first_row * kBlockK, scale, sum + first_row,
                                               T - first_row);
      }
      x += T * kBlockK;
    }
    prefetch_lines<9>(weights + kPrefetchBytes);
    weights += 576;
  }
  NIBBLE_UNROLL
  for (int t = 0; t < T; ++t) _mm512_store_ps(acc + t * kPanelRows, sum[t]);
}

using TileFunction = void (*)(const PanelJob&, const unsigned char*, const uint16_t*, float*);

// Tile functions by T - 1.
template <int... T>
struct Nvfp4Tiles {
  static constexpr TileFunction kFunctions[] = {nvfp4_tile<T>...};
};
template <PanelFormat F, int P, int... T>
struct WideTiles {
  static constexpr TileFunction kFunctions[] = {wide_tile<F, P, T>...};
};

// All tiles of rows for `panels` panels beginning at `panel`.
void run_tiles(const PanelJob& job, int64_t panel, int64_t tile_rows,
               const TileFunction* functions) {
  const unsigned char* weights = job.weights + panel * job.panel_bytes;
  float* acc = job.acc + panel * job.acc_panel_stride;
  const uint16_t* x = static_cast<const uint16_t*>(job.x);
  for (int64_t row = 0; row < job.rows; row += tile_rows) {
    const int64_t rows = job.rows - row < tile_rows ? job.rows - row : tile_rows;
    functions[rows - 1](job, weights, x + row * job.blocks * kBlockK, acc + row * kPanelRows);
  }
}

void accumulate_nvfp4(const PanelJob& job) {
  using Tiles = Nvfp4Tiles<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16>;
  for (int64_t panel = 0; panel < job.num_panels; ++panel) {
    run_tiles(job, panel, kNvfp4TileRows, Tiles::kFunctions);
  }
}

template <PanelFormat F>
void accumulate_wide(const PanelJob& job) {
  using One = WideTiles<F, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12>;
  using Two = WideTiles<F, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12>;
  using Four = WideTiles<F, 4, 1, 2, 3, 4>;
  int64_t panel = 0;
  if (job.rows <= 4) {
    for (; panel + 4 <= job.num_panels; panel += 4) {
      run_tiles(job, panel, kWideTileRows, Four::kFunctions);
    }
  }
  for (; panel + 2 <= job.num_panels; panel += 2) {
    run_tiles(job, panel, kWideTileRows, Two::kFunctions);
  }
  if (panel < job.num_panels) run_tiles(job, panel, kWideTileRows, One::kFunctions);
}
