// Tests for linear weights: each stored form loads and decodes, each contradiction is refused.
#include "formats/linear_weight.h"

#include "formats/bf16.h"
#include "formats/safetensors_writer.h"
#include "formats/test_files.h"
#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace nibble::formats {
namespace {

struct StoredTensor {
  TensorSpec spec;
  std::string bytes;
};

template <typename T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

StoredTensor stored(const std::string& name, DType dtype, const Shape& shape,
                    const std::string& bytes) {
  return {TensorSpec{name, dtype, shape}, bytes};
}

StoredTensor scalar(const std::string& name, float value) {
  return stored(name, DType::f32, {}, raw<float>({value}));
}

// A checkpoint of the given tensors, in a directory that lives as long as it.
class LinearWeightTest : public testing::Test {
 protected:
  Result<LinearWeight> load(const std::vector<StoredTensor>& tensors,
                            ValueCheck check = ValueCheck::scan) {
    std::vector<TensorSpec> specs;
    for (const StoredTensor& tensor : tensors) specs.push_back(tensor.spec);
    auto writer = SafetensorsWriter::create(folder_.path() + "/model.safetensors", specs);
    EXPECT_TRUE(writer.ok());
    for (const StoredTensor& tensor : tensors) {
      EXPECT_TRUE(writer.value().append(tensor.spec.name, as_byte_span(tensor.bytes)).ok());
    }
    EXPECT_TRUE(writer.value().finish().ok());
    auto opened = Checkpoint::open(folder_.path());
    EXPECT_TRUE(opened.ok());
    checkpoints_.push_back(std::move(opened).value());
    return load_linear_weight(checkpoints_.back(), "p", check);
  }

  std::string failure(const std::vector<StoredTensor>& tensors) {
    const auto result = load(tensors);
    return result.ok() ? "" : result.error().message;
  }

  // Two rows of 32: every code in every block, one scale byte per block.
  static std::vector<StoredTensor> nvfp4() {
    std::vector<uint8_t> codes(32);
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(0x10 + i % 8 * 0x22);
    return {
        stored("p.weight", DType::u8, {2, 16}, raw(codes)),
        stored("p.weight_scale", DType::f8_e4m3, {2, 2}, raw<uint8_t>({0x38, 0x40, 0x30, 0x7E})),
        scalar("p.weight_scale_2", 0.5f), scalar("p.input_scale", 0.25f)};
  }

  static std::vector<StoredTensor> fp8() {
    return {stored("p.weight", DType::f8_e4m3, {1, 4}, raw<uint8_t>({0x38, 0xB8, 0x40, 0x7E})),
            scalar("p.weight_scale", 0.5f)};
  }

 private:
  TemporaryDirectory folder_;
  std::vector<Checkpoint> checkpoints_;
};

TEST_F(LinearWeightTest, Nvfp4) {
  const auto result = load(nvfp4());
  ASSERT_TRUE(result.ok()) << result.error().message;
  const LinearWeight& w = result.value();
  EXPECT_EQ(w.format, WeightFormat::nvfp4);
  EXPECT_EQ(w.out_features, 2);
  EXPECT_EQ(w.in_features, 32);
  EXPECT_EQ(w.weight_scale_2, 0.5f);
  EXPECT_EQ(w.input_scale, 0.25f);
  EXPECT_EQ(w.bytes(), 36u);
  float row[32];
  decode_row_f32(w, 0, row);
  // Bytes 0x10, 0x32, ...: element i of a block is code i; the first scale is 1 * 0.5.
  EXPECT_EQ(row[0], 0.0f);
  EXPECT_EQ(row[1], 0.25f);
  EXPECT_EQ(row[7], 3.0f);
  EXPECT_TRUE(std::signbit(row[8]));
  EXPECT_EQ(row[15], -3.0f);
  EXPECT_EQ(row[16 + 7], 6.0f);  // second block: scale 2 * 0.5
  decode_row_f32(w, 1, row);
  EXPECT_EQ(row[7], 1.5f);  // scale 0.5 * 0.5
  EXPECT_EQ(row[16 + 7], 6.0f * 224.0f);
}

TEST_F(LinearWeightTest, Fp8Bf16AndF32) {
  const auto eight = load(fp8());
  ASSERT_TRUE(eight.ok()) << eight.error().message;
  EXPECT_EQ(eight.value().format, WeightFormat::fp8);
  EXPECT_EQ(eight.value().weight_scale_2, 0.5f);
  EXPECT_EQ(eight.value().input_scale, 0.0f);
  float row[4];
  decode_row_f32(eight.value(), 0, row);
  EXPECT_EQ(row[1], -0.5f);
  EXPECT_EQ(row[3], 224.0f);

  const auto half = load({stored("p.weight", DType::bf16, {1, 2},
                                 raw<uint16_t>({bf16_from_f32(1.5f), bf16_from_f32(-2.0f)}))});
  ASSERT_TRUE(half.ok());
  EXPECT_EQ(half.value().format, WeightFormat::bf16);
  decode_row_f32(half.value(), 0, row);
  EXPECT_EQ(row[0], 1.5f);
  EXPECT_EQ(row[1], -2.0f);

  const auto full = load({stored("p.weight", DType::f32, {2, 1}, raw<float>({3.0f, 4.0f}))});
  ASSERT_TRUE(full.ok());
  EXPECT_EQ(full.value().format, WeightFormat::f32);
  decode_row_f32(full.value(), 1, row);
  EXPECT_EQ(row[0], 4.0f);
}

// compressed-tensors: the same bytes, other names, reciprocal scalars of shape [1].
TEST_F(LinearWeightTest, PackedDialect) {
  auto tensors = nvfp4();
  tensors[0].spec.name = "p.weight_packed";
  tensors[2] = stored("p.weight_global_scale", DType::f32, {1}, raw<float>({2.0f}));
  tensors[3] = stored("p.input_global_scale", DType::f32, {1}, raw<float>({4.0f}));
  const auto result = load(tensors);
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(result.value().format, WeightFormat::nvfp4);
  EXPECT_EQ(result.value().in_features, 32);
  EXPECT_EQ(result.value().weight_scale_2, 0.5f);
  EXPECT_EQ(result.value().input_scale, 0.25f);
  float row[32];
  decode_row_f32(result.value(), 1, row);
  EXPECT_EQ(row[16 + 7], 6.0f * 224.0f);

  tensors[2].bytes = raw<float>({1e-42f});  // its reciprocal overflows
  EXPECT_NE(failure(tensors).find("p.weight_global_scale"), std::string::npos);
  tensors.erase(tensors.begin() + 2);
  EXPECT_NE(failure(tensors).find("weight_global_scale missing"), std::string::npos);
  tensors.push_back(scalar("p.weight_scale_2", 0.5f));  // both dialects at once
  EXPECT_NE(failure(tensors).find("p.weight_scale_2: this quantization scheme"), std::string::npos);
}

TEST_F(LinearWeightTest, RefusesBadScales) {
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    for (const size_t which : {size_t{2}, size_t{3}}) {
      auto tensors = nvfp4();
      tensors[which].bytes = raw<float>({bad});
      EXPECT_NE(failure(tensors).find("expected a finite number above 0"), std::string::npos)
          << bad;
    }
    auto tensors = fp8();
    tensors[1].bytes = raw<float>({bad});
    EXPECT_NE(failure(tensors).find("p.weight_scale: "), std::string::npos) << bad;
  }
}

TEST_F(LinearWeightTest, RefusesNanBytes) {
  for (const char nan : {'\x7F', '\xFF'}) {
    auto four = nvfp4();
    four[1].bytes[3] = nan;
    EXPECT_NE(failure(four).find("holds NaN block scales"), std::string::npos);
    EXPECT_TRUE(load(four, ValueCheck::skip).ok());
    auto eight = fp8();
    eight[0].bytes[2] = nan;
    EXPECT_NE(failure(eight).find("holds NaN elements"), std::string::npos);
  }
}

TEST_F(LinearWeightTest, RefusesShapesAndCombinationsThatDoNotFit) {
  auto tensors = nvfp4();
  tensors[1].spec.shape = {1, 4};
  EXPECT_NE(failure(tensors).find("F8_E4M3 [1,4], expected F8_E4M3 [2,2]"), std::string::npos);
  tensors = nvfp4();
  tensors[1].spec.dtype = DType::u8;
  EXPECT_NE(failure(tensors).find("U8 [2,2], expected F8_E4M3"), std::string::npos);
  tensors = nvfp4();
  tensors[0].spec.shape = {8, 4};
  EXPECT_NE(failure(tensors).find("expected a multiple of 8 bytes"), std::string::npos);
  tensors = nvfp4();
  tensors[0].spec.shape = {32};
  EXPECT_NE(failure(tensors).find("expected [out_features, in_features]"), std::string::npos);
  tensors = nvfp4();
  tensors[2] = stored("p.weight_scale_2", DType::f32, {2}, raw<float>({1.0f, 1.0f}));
  EXPECT_NE(failure(tensors).find("F32 [2], expected F32 []"), std::string::npos);
  tensors = nvfp4();
  tensors.erase(tensors.begin() + 2);
  EXPECT_NE(failure(tensors).find("neither BF16"), std::string::npos);
  tensors = nvfp4();
  tensors.erase(tensors.begin());
  EXPECT_NE(failure(tensors).find("p.weight: missing"), std::string::npos);
  tensors = nvfp4();
  tensors.push_back(stored("p.pre_quant_scale", DType::bf16, {1}, "xx"));
  EXPECT_NE(failure(tensors).find("p.pre_quant_scale: this quantization scheme"),
            std::string::npos);
  tensors = fp8();
  tensors.push_back(scalar("p.weight_scale_2", 1.0f));
  EXPECT_NE(failure(tensors).find("neither BF16"), std::string::npos);
  EXPECT_NE(failure({stored("p.weight", DType::f16, {1, 1}, "xx")}).find("F16 [1,1]"),
            std::string::npos);
}

TEST_F(LinearWeightTest, ListsEveryProblemOfAMatrix) {
  auto tensors = nvfp4();
  tensors[1].bytes[0] = '\x7F';
  tensors[2].bytes = raw<float>({0.0f});
  tensors[3].bytes = raw<float>({-1.0f});
  const std::string message = failure(tensors);
  EXPECT_NE(message.find("3 problems"), std::string::npos) << message;
  EXPECT_NE(message.find("model.safetensors"), std::string::npos);
}

TEST(FusedExpert, SplitsBanks) {
  Tensor gate_up(DType::f32, {2, 4, 3});  // 2 experts, inner 2, hidden 3
  Tensor down(DType::f32, {2, 3, 2});
  for (int i = 0; i < 24; ++i) gate_up.view().as<float>()[i] = static_cast<float>(i);
  for (int i = 0; i < 12; ++i) down.view().as<float>()[i] = static_cast<float>(100 + i);
  const FusedExpert expert = fused_expert(gate_up.view(), down.view(), 1);
  EXPECT_EQ(expert.gate.weight.shape(), (Shape{2, 3}));
  float row[3];
  decode_row_f32(expert.gate, 1, row);
  EXPECT_EQ(row[0], 15.0f);
  decode_row_f32(expert.up, 0, row);
  EXPECT_EQ(row[2], 20.0f);
  EXPECT_EQ(expert.down.out_features, 3);
  decode_row_f32(expert.down, 2, row);
  EXPECT_EQ(row[1], 111.0f);
}

}  // namespace
}  // namespace nibble::formats
