// Tests for dtypes, shapes, views and the owning tensor.
#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <string>
#include <type_traits>
#include <utility>

namespace nibble {
namespace {

TEST(DType, SizesAndSafetensorsNames) {
  EXPECT_EQ(dtype_bytes(DType::f32), 4u);
  EXPECT_EQ(dtype_bytes(DType::bf16), 2u);
  EXPECT_EQ(dtype_bytes(DType::f8_e4m3), 1u);
  EXPECT_EQ(dtype_bytes(DType::u8), 1u);
  EXPECT_EQ(dtype_bytes(DType::i64), 8u);
  EXPECT_STREQ(dtype_name(DType::bf16), "BF16");
  EXPECT_STREQ(dtype_name(DType::f8_e4m3), "F8_E4M3");
  EXPECT_STREQ(dtype_name(DType::boolean), "BOOL");
  std::set<std::string> names;
  for (int dtype = 0; dtype <= static_cast<int>(DType::boolean); ++dtype) {
    names.insert(dtype_name(static_cast<DType>(dtype)));
    EXPECT_GT(dtype_bytes(static_cast<DType>(dtype)), 0u);
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(DType::boolean) + 1);
}

TEST(Shape, CountsComparesAndPrints) {
  EXPECT_EQ(Shape().elements(), 1);
  EXPECT_EQ((Shape{4, 0, 3}).elements(), 0);
  EXPECT_EQ((Shape{100000, 100000}).elements(), 10000000000);
  EXPECT_EQ(to_string(Shape{512, 127}), "[512,127]");
  EXPECT_EQ(to_string(Shape()), "[]");
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_FALSE((Shape{2, 3}) == (Shape{3, 2}));
  EXPECT_FALSE((Shape{2}) == (Shape{2, 0}));
  Shape grown{2};
  grown.append(3);
  EXPECT_EQ(grown, (Shape{2, 3}));
}

TEST(ShapeDeathTest, RefusesRanksAboveTheLimit) {
  EXPECT_DEATH((Shape{1, 2, 3, 4, 5, 6}), "rank above");
  Shape full{1, 2, 3, 4, 5};
  EXPECT_DEATH(full.append(6), "rank above");
}

TEST(Tensor, IsZeroedAlignedAndMoveOnly) {
  static_assert(!std::is_copy_constructible_v<Tensor>);
  static_assert(std::is_trivially_copyable_v<TensorView>);
  for (const int64_t columns : {1, 7, 64, 1000}) {
    Tensor tensor(DType::bf16, {3, columns});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.view().data()) % 64, 0u);
    const ConstTensorView view = std::as_const(tensor).view();
    EXPECT_EQ(view.bytes(), static_cast<size_t>(3 * columns * 2));
    for (size_t i = 0; i < view.bytes(); ++i) ASSERT_EQ(view.data()[i], std::byte{0});
  }
}

TEST(Tensor, MovingKeepsTheBytesInPlace) {
  Tensor source(DType::f32, {2, 2});
  source.view().as<float>()[3] = 1.5F;
  const std::byte* bytes = source.view().data();
  Tensor moved(std::move(source));
  EXPECT_EQ(moved.view().data(), bytes);
  EXPECT_EQ(moved.view().as<float>()[3], 1.5F);
}

TEST(TensorView, SlicesRowsOfTheFirstAxis) {
  Tensor tensor(DType::i32, {4, 2, 3});
  const TensorView view = tensor.view();
  for (int i = 0; i < 24; ++i) view.as<int32_t>()[i] = i;
  EXPECT_EQ(view.rows(), 4);
  EXPECT_EQ(view.row_elements(), 6);
  const TensorView slice = view.slice_rows(1, 2);
  EXPECT_EQ(slice.shape(), (Shape{2, 2, 3}));
  EXPECT_EQ(slice.as<int32_t>()[0], 6);
  EXPECT_EQ(view.slice_rows(4, 0).rows(), 0);
  slice.as<int32_t>()[0] = -1;
  EXPECT_EQ(view.as<int32_t>()[6], -1);
}

TEST(TensorView, ReshapesAndConvertsToConst) {
  Tensor tensor(DType::f32, {4, 6});
  const ConstTensorView flat = ConstTensorView(tensor.view()).reshaped({24});
  EXPECT_EQ(flat.shape(), (Shape{24}));
  EXPECT_EQ(flat.data(), tensor.view().data());
  static_assert(std::is_same_v<decltype(flat.as<float>()), const float*>);
  EXPECT_TRUE(TensorView().empty());
  EXPECT_EQ(TensorView(nullptr, DType::f32, {0, 4}).row_elements(), 0);
}

TEST(TensorViewDeathTest, RefusesSlicesOutsideAndOtherSizes) {
  Tensor tensor(DType::f32, {4, 6});
  EXPECT_DEATH((void)tensor.view().slice_rows(3, 2), "row slice.*\\[3\\] \\[2\\] \\[4\\]");
  EXPECT_DEATH((void)tensor.view().slice_rows(-1, 1), "row slice");
  EXPECT_DEATH((void)tensor.view().reshaped({5, 5}), "number of elements");
}

}  // namespace
}  // namespace nibble
