// Embedding lookup; included inside an anonymous namespace per ISA level.

void embed(const EmbedArgs& args, int64_t first, int64_t last) noexcept {
  for (int64_t row = first; row < last; ++row) {
    const int32_t override_row = args.override_index == nullptr ? -1 : args.override_index[row];
    const bool overridden = override_row >= 0;
    const void* source = overridden ? args.overrides : args.table;
    const Element type = overridden ? args.override_type : args.table_type;
    const int64_t begin = int64_t{overridden ? override_row : args.token_ids[row]} * args.n;
    for_vectors(args.n, [&](int64_t i, int64_t count) {
      v_store_part(args.out + row * args.n + i, v_load_element(source, type, begin + i, count),
                   count);
    });
  }
}
