// The key panel of levels without a version of their own; included after unpack.inl.

/// panel[d][key] for 64 keys; keys from `valid` on are zero.
inline void unpack_keys(const PageSpan& span, Element type, int64_t head_dim, int64_t valid,
                        float* panel) {
  unpack_key_lanes(span, type, 0, head_dim, valid, panel);
}
