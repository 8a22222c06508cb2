// Lanes without machine flags: four baseline vectors of the compiler's portable vector type.
//
// Multiply and add stay two roundings: an FMA without hardware is a slow library call.

typedef float Quad __attribute__((vector_size(16), may_alias));

struct Lanes {
  Quad part[4];
};

inline Lanes load(const float* in) {
  const auto* quads = reinterpret_cast<const Quad*>(in);
  return {{quads[0], quads[1], quads[2], quads[3]}};
}
inline void store(float* out, const Lanes& in) {
  auto* quads = reinterpret_cast<Quad*>(out);
  quads[0] = in.part[0];
  quads[1] = in.part[1];
  quads[2] = in.part[2];
  quads[3] = in.part[3];
}
inline Lanes broadcast(float x) {
  const Quad quad = {x, x, x, x};
  return {{quad, quad, quad, quad}};
}
inline Lanes multiply(const Lanes& a, const Lanes& b) {
  return {
      {a.part[0] * b.part[0], a.part[1] * b.part[1], a.part[2] * b.part[2], a.part[3] * b.part[3]}};
}
inline Lanes multiply_add(const Lanes& a, const Lanes& b, const Lanes& c) {
  return {{a.part[0] * b.part[0] + c.part[0], a.part[1] * b.part[1] + c.part[1],
           a.part[2] * b.part[2] + c.part[2], a.part[3] * b.part[3] + c.part[3]}};
}

struct Words {
  uint32_t value[kPanelRows];
};

inline Words load_words(const unsigned char* line) {
  Words words;
  __builtin_memcpy(&words, line, sizeof words);
  return words;
}

inline float float_of_bits(uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}

// E4M3 to f32. A subnormal is read as a normal number one exponent up, less 2^-6: no f32 denormals.
inline float decode_e4m3(uint32_t code) {
  const uint32_t magnitude = code & 0x7F;
  const uint32_t shifted = magnitude << 20;
  const float normal = float_of_bits(shifted + (120u << 23));
  const float small = float_of_bits(shifted + (121u << 23)) - 0x1p-6f;
  const float value = magnitude < 8 ? small : normal;
  const uint32_t bits = magnitude == 0x7F ? 0x7FC00000u : __builtin_bit_cast(uint32_t, value);
  return float_of_bits(bits | (code & 0x80) << 24);
}

// Packed scale bytes (packed_weights.h).
inline Lanes decode_scales(const unsigned char* bytes) {
  alignas(16) float values[kPanelRows];
  for (int i = 0; i < kPanelRows; ++i) {
    values[i] = float_of_bits((uint32_t{bytes[i]} << 20) + (117u << 23));
  }
  return load(values);
}

inline void decode_bf16_line(const unsigned char* line, float* out) {
  const Words words = load_words(line);
  for (int i = 0; i < kPanelRows; ++i) out[i] = float_of_bits(words.value[i] << 16);
  for (int i = 0; i < kPanelRows; ++i) {
    out[kPanelRows + i] = float_of_bits(words.value[i] & 0xFFFF0000u);
  }
}

inline void decode_fp8_line(const unsigned char* line, float scale, float* out) {
  const Words words = load_words(line);
  constexpr int kShifts[4] = {0, 16, 8, 24};
  for (int j = 0; j < 4; ++j) {
    for (int i = 0; i < kPanelRows; ++i) {
      out[j * kPanelRows + i] = decode_e4m3(words.value[i] >> kShifts[j] & 0xFF) * scale;
    }
  }
}

inline void decode_nvfp4_line(const unsigned char* line, const Lanes& scale, float* out) {
  static constexpr float kValues[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                        -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
  const Words words = load_words(line);
  alignas(16) float scales[kPanelRows];
  store(scales, scale);
  constexpr int kShifts[8] = {0, 16, 4, 20, 8, 24, 12, 28};
  for (int j = 0; j < 8; ++j) {
    for (int i = 0; i < kPanelRows; ++i) {
      out[j * kPanelRows + i] = kValues[words.value[i] >> kShifts[j] & 15] * scales[i];
    }
  }
}
