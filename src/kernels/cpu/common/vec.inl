// Loads, stores and conversions on the level's vectors (vec_<level>.inl).
//
// Included inside an anonymous namespace after vec_<level>.inl. "part" functions take the number of
// lanes in use: kLanes (constant, folds to the plain form) or fewer, for the end of a row.

inline Vec v_load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

inline void v_store(float* p, Vec v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

/// Lanes beyond count are zero.
inline Vec v_load_part(const float* p, int64_t count) {
  if (count == kLanes) return v_load(p);
  Vec v = {};
  __builtin_memcpy(&v, p, static_cast<size_t>(count) * sizeof(float));
  return v;
}

inline void v_store_part(float* p, Vec v, int64_t count) {
  if (count == kLanes) {
    v_store(p, v);
  } else {
    __builtin_memcpy(p, &v, static_cast<size_t>(count) * sizeof(float));
  }
}

inline Vec v_from_bf16(VecH bits) {
  return (Vec)(__builtin_convertvector(bits, VecU) << 16);
}

/// Nearest even; every NaN becomes 0x7FC0 (formats/bf16.h).
inline VecH v_to_bf16(Vec x) {
  const VecU bits = (VecU)x;
  const VecU rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  const VecU nan = VecU{} + 0x7FC0u;
  return __builtin_convertvector((VecU)(x != x ? (VecI)nan : (VecI)rounded), VecH);
}

inline Vec v_load_bf16_part(const uint16_t* p, int64_t count) {
  VecH bits = {};
  if (count == kLanes) {
    __builtin_memcpy(&bits, p, sizeof(bits));
  } else {
    __builtin_memcpy(&bits, p, static_cast<size_t>(count) * sizeof(uint16_t));
  }
  return v_from_bf16(bits);
}

inline void v_store_bf16_part(uint16_t* p, Vec v, int64_t count) {
  const VecH bits = v_to_bf16(v);
  if (count == kLanes) {
    __builtin_memcpy(p, &bits, sizeof(bits));
  } else {
    __builtin_memcpy(p, &bits, static_cast<size_t>(count) * sizeof(uint16_t));
  }
}

/// Element `index` and following of a buffer of f32 or bf16.
inline Vec v_load_element(const void* p, Element type, int64_t index, int64_t count) {
  if (type == Element::bf16) {
    return v_load_bf16_part(static_cast<const uint16_t*>(p) + index, count);
  }
  return v_load_part(static_cast<const float*>(p) + index, count);
}

inline void v_store_element(void* p, Element type, int64_t index, Vec v, int64_t count) {
  if (type == Element::bf16) {
    v_store_bf16_part(static_cast<uint16_t*>(p) + index, v, count);
  } else {
    v_store_part(static_cast<float*>(p) + index, v, count);
  }
}

/// Sum of the lanes, halves first: the same order everywhere in a level.
inline float v_sum(Vec v) {
  float lanes[kLanes];
  v_store(lanes, v);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

inline float v_max_lane(Vec v) {
  float lanes[kLanes];
  v_store(lanes, v);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i)
      lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  }
  return lanes[0];
}

/// body(index, lanes) over [0, n) in steps of one vector; the last step may be a part.
template <typename Body>
inline void for_vectors(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, int64_t{kLanes});
  if (i < n) body(i, n - i);
}

/// Sum of a[i] * b[i]: two chains of vectors, then the lanes.
inline float dot(const float* a, const float* b, int64_t n) {
  Vec even = {}, odd = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    even = v_fma(v_load(a + i), v_load(b + i), even);
    odd = v_fma(v_load(a + i + kLanes), v_load(b + i + kLanes), odd);
  }
  for (; i < n; i += kLanes) {
    const int64_t count = n - i < kLanes ? n - i : kLanes;
    even = v_fma(v_load_part(a + i, count), v_load_part(b + i, count), even);
  }
  return v_sum(even + odd);
}

/// 1 / sqrt(x), two correctly rounded steps.
inline float reciprocal_sqrt(float x) {
  return 1.0f / v_sqrt(v_set(x))[0];
}
