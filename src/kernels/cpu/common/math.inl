// exp, sigmoid, silu, softplus on vectors: accurate, defined for every input.
//
// Included inside an anonymous namespace after vec.inl. Each lane's result depends on that lane's
// input only. Bounds against exact values, held by delta_test.cc and elementwise_test.cc: exp 2
// ulp; sigmoid and softplus 4 ulp. exp(-large) is 0, gradual underflow included; exp(large) is
// infinity; NaN stays NaN.

/// exp(x): x = n ln2 + r, a polynomial of degree 7 in r (coefficients: Cephes expf, S. Moshier),
/// and 2^n in two factors so that results below 2^-126 round once.
inline Vec v_exp(Vec x) {
  // NaN passes: max and min return their second operand then.
  x = v_min(v_set(89.0f), v_max(v_set(-104.0f), x));
  const Vec magic = v_set(0x1.8p23f);
  const Vec shifted = v_fma(x, v_set(1.44269504088896341f), magic);
  const VecI n = (VecI)shifted - (VecI)magic;
  const Vec nf = shifted - magic;
  Vec r = v_fma(nf, v_set(-0.693359375f), x);
  r = v_fma(nf, v_set(2.12194440e-4f), r);
  Vec p = v_set(1.9875691500e-4f);
  p = v_fma(p, r, v_set(1.3981999507e-3f));
  p = v_fma(p, r, v_set(8.3334519073e-3f));
  p = v_fma(p, r, v_set(4.1665795894e-2f));
  p = v_fma(p, r, v_set(1.6666665459e-1f));
  p = v_fma(p, r, v_set(5.0000001201e-1f));
  p = v_fma(p, r * r, r) + v_set(1.0f);
  const VecI half = n >> 1;
  const Vec first = (Vec)((half + 127) << 23);
  const Vec second = (Vec)((n - half + 127) << 23);
  return p * first * second;
}

inline Vec v_abs(Vec x) {
  return (Vec)((VecI)x & 0x7FFFFFFF);
}

/// 1 / (1 + exp(-x)), from exp(-|x|) so that nothing overflows.
inline Vec v_sigmoid(Vec x) {
  const Vec e = v_exp(-v_abs(x));
  const Vec d = v_set(1.0f) / (v_set(1.0f) + e);
  return x < v_set(0.0f) ? e * d : d;
}

inline Vec v_silu(Vec x) {
  return x * v_sigmoid(x);
}

/// log(1 + exp(x)) = max(x, 0) + log1p(e), e = exp(-|x|) in [0, 1]; log1p(e) = 2 atanh(e / (2 +
/// e)).
inline Vec v_softplus(Vec x) {
  const Vec e = v_exp(-v_abs(x));
  const Vec s = e / (v_set(2.0f) + e);
  const Vec s2 = s * s;
  Vec p = v_set(1.0f / 17.0f);
  p = v_fma(p, s2, v_set(1.0f / 15.0f));
  p = v_fma(p, s2, v_set(1.0f / 13.0f));
  p = v_fma(p, s2, v_set(1.0f / 11.0f));
  p = v_fma(p, s2, v_set(1.0f / 9.0f));
  p = v_fma(p, s2, v_set(1.0f / 7.0f));
  p = v_fma(p, s2, v_set(1.0f / 5.0f));
  p = v_fma(p, s2, v_set(1.0f / 3.0f));
  const Vec log1p = v_set(2.0f) * v_fma(s * s2, p, s);
  return v_max(v_set(0.0f), x) + log1p;
}
