// Tests for the embedding lookup: every level against kernels/reference/embed.cc, exactly.
#include "kernels/cpu/embed/embed.h"

#include "kernels/cpu/common/operation_test.h"
#include "kernels/reference/embed.h"

namespace nibble::cpu {
namespace {

TEST(Embed, TableAndOverrides) {
  const std::vector<int32_t> ids = {3, 0, 9, 3};
  const std::vector<int32_t> override_index = {-1, 1, -1, 0};
  for (const OperationKernels* level : supported_operations()) {
    for (int64_t n : {1, 16, 37, 256}) {
      const auto table = random_floats(10 * n, 21);
      const auto table_bf16 = to_bf16(table);
      const auto overrides = random_floats(2 * n, 22);
      for (bool is_bf16 : {false, true}) {
        for (bool overridden : {false, true}) {
          EmbedArgs args{};
          args.table = is_bf16 ? static_cast<const void*>(table_bf16.data()) : table.data();
          args.table_type = is_bf16 ? Element::bf16 : Element::f32;
          args.token_ids = ids.data();
          args.override_index = overridden ? override_index.data() : nullptr;
          args.overrides = overrides.data();
          args.override_type = Element::f32;
          std::vector<float> out(static_cast<size_t>(4 * n));
          args.out = out.data();
          args.n = n;
          level->embed.embed(args, 0, 3);
          level->embed.embed(args, 3, 4);
          std::vector<double> want(static_cast<size_t>(n));
          for (size_t r = 0; r < 4; ++r) {
            const bool from_override = overridden && override_index[r] >= 0;
            reference::embedding_row(from_override ? args.overrides : args.table,
                                     from_override || !is_bf16 ? DType::f32 : DType::bf16,
                                     from_override ? override_index[r] : ids[r], n, want.data());
            for (size_t i = 0; i < want.size(); ++i) {
              ASSERT_EQ(out[r * want.size() + i], want[i]) << level->level;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace nibble::cpu
