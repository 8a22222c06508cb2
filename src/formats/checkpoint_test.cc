// Tests for checkpoint reading (index and shards must agree) and writing (shards, index, resuming).
#include "formats/checkpoint.h"

#include "base/file.h"
#include "formats/checkpoint_index.h"
#include "formats/checkpoint_writer.h"
#include "formats/test_files.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace nibble::formats {
namespace {

void write_shard(const std::string& path, const std::vector<std::string>& names) {
  std::vector<TensorSpec> specs;
  for (const std::string& name : names) specs.push_back({name, DType::u8, {2}});
  auto writer = SafetensorsWriter::create(path, specs);
  ASSERT_TRUE(writer.ok());
  for (const std::string& name : names) {
    ASSERT_TRUE(writer.value().append(name, as_byte_span("xy")).ok());
  }
  ASSERT_TRUE(writer.value().finish().ok());
}

std::string index_text(const std::vector<std::pair<std::string, std::string>>& entries) {
  return checkpoint_index_json({entries.begin(), entries.end()}, 2 * entries.size());
}

std::string failure(const std::string& path) {
  const auto result = Checkpoint::open(path);
  return result.ok() ? "" : result.error().message;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Checkpoint, OpensIndexSingleFileAndLooseFiles) {
  const TemporaryDirectory sharded;
  write_shard(sharded.path() + "/one.safetensors", {"b", "c"});
  write_shard(sharded.path() + "/two.safetensors", {"a"});
  write_shard(sharded.path() + "/unrelated.safetensors", {"z"});
  write_text(
      sharded.path() + "/" + kIndexFile,
      index_text({{"a", "two.safetensors"}, {"b", "one.safetensors"}, {"c", "one.safetensors"}}));
  const auto checkpoint = Checkpoint::open(sharded.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(checkpoint.value().names(), (std::vector<std::string_view>{"a", "b", "c"}));
  EXPECT_EQ(checkpoint.value().total_bytes(), 6u);
  EXPECT_EQ(checkpoint.value().shard_path("c"), sharded.path() + "/one.safetensors");
  EXPECT_EQ(checkpoint.value().view("b").shape(), Shape{2});
  EXPECT_TRUE(checkpoint.value().view("z").empty());
  EXPECT_EQ(checkpoint.value().find("z"), nullptr);

  const TemporaryDirectory single;
  write_shard(single.path() + "/model.safetensors", {"a"});
  EXPECT_EQ(failure(single.path()), "");
  EXPECT_EQ(failure(single.path() + "/model.safetensors"), "");

  const TemporaryDirectory loose;
  write_shard(loose.path() + "/p.safetensors", {"a"});
  write_shard(loose.path() + "/q.safetensors", {"b"});
  EXPECT_EQ(failure(loose.path()), "");
  write_shard(loose.path() + "/r.safetensors", {"a"});
  EXPECT_TRUE(
      contains(failure(loose.path()), "tensor \"a\": found in p.safetensors and in r.safetensors"));
}

TEST(Checkpoint, ListsEveryDisagreementAtOnce) {
  const TemporaryDirectory folder;
  write_shard(folder.path() + "/one.safetensors", {"a", "extra", "twice"});
  write_shard(folder.path() + "/two.safetensors", {"twice"});
  write_text(folder.path() + "/broken.safetensors", "nonsense, long enough");
  write_text(folder.path() + "/" + kIndexFile, index_text({{"a", "one.safetensors"},
                                                           {"gone", "one.safetensors"},
                                                           {"twice", "two.safetensors"},
                                                           {"b", "broken.safetensors"},
                                                           {"m1", "missing.safetensors"},
                                                           {"m2", "missing.safetensors"}}));
  const std::string message = failure(folder.path());
  EXPECT_TRUE(contains(message, "5 problems")) << message;
  EXPECT_TRUE(contains(message, "tensor \"gone\": the index places it in one.safetensors"))
      << message;
  EXPECT_TRUE(contains(
      message, "tensor \"extra\": found in one.safetensors, but the index does not have it"));
  EXPECT_TRUE(contains(
      message,
      "tensor \"twice\": found in one.safetensors, but the index places it in two.safetensors"));
  EXPECT_TRUE(contains(message, "broken.safetensors: header length"));
  EXPECT_TRUE(contains(message, "missing.safetensors: No such file"));
  EXPECT_TRUE(contains(message, "(the index places 2 tensors in it)"));
}

TEST(Checkpoint, RefusesEmptyFoldersAndUnfinishedCopies) {
  const TemporaryDirectory folder;
  EXPECT_TRUE(contains(failure(folder.path()), "no model.safetensors.index.json"));
  EXPECT_TRUE(contains(failure(folder.path() + "/nowhere"), "no such directory"));
  write_shard(folder.path() + "/model-00001-of-00002.safetensors", {"a"});
  EXPECT_TRUE(contains(failure(folder.path()), "is missing, although there are numbered shards"));
}

TEST(Checkpoint, RefusesBadIndexes) {
  const TemporaryDirectory folder;
  write_shard(folder.path() + "/x.safetensors", {"a"});
  const std::string index = folder.path() + "/" + kIndexFile;
  const std::pair<const char*, const char*> cases[] = {
      {"[]", "weight_map: missing"},
      {"{}", "weight_map: missing"},
      {R"({"weight_map":3})", "weight_map: missing"},
      {R"({"weight_map":{}})", "weight_map is empty"},
      {R"({"weight_map":{"a":1}})", "expected the name of a file"},
      {R"({"weight_map":{"a":"../x.safetensors"}})", "expected the name of a file"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", "expected the name of a file"},
      {R"({"weight_map":{"a":".."}})", "expected the name of a file"},
      {R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})", "\"a\" appears twice"},
      {R"({"weight_map":{},"weight_map":{}})", "weight_map appears twice"},
      {R"({"weight_map":{"a":{"b":"x.safetensors"}}})", "found an object"},
      {R"({"weight_map":{"a":["x.safetensors"]}})", "found a list"},
      {R"([{"weight_map":{"a":"x.safetensors"}}])", "weight_map: missing"},
      {R"({"metadata":{"weight_map":{"a":"x.safetensors"}}})", "weight_map: missing"},
      {"{", "not valid JSON"}};
  for (const auto& [text, message] : cases) {
    write_text(index, text);
    EXPECT_TRUE(contains(failure(folder.path()), message))
        << text << ": " << failure(folder.path());
  }
}

std::vector<TensorSpec> two_matrices() {
  return {{"p.weight", DType::u8, {4}},
          {"p.weight_scale", DType::f8_e4m3, {2}},
          {"p.weight_scale_2", DType::f32, {}},
          {"q.weight", DType::u8, {4}},
          {"q.weight_scale", DType::f8_e4m3, {2}},
          {"r", DType::bf16, {1}}};
}

void write_tensor(CheckpointWriter& writer, const TensorSpec& spec, char fill) {
  const std::string bytes(spec.bytes(), fill);
  ASSERT_TRUE(writer.append(spec.name, as_byte_span(bytes)).ok());
}

TEST(CheckpointWriter, KeepsTheTensorsOfOneMatrixTogether) {
  const TemporaryDirectory folder;
  auto writer = CheckpointWriter::create(folder.path(), two_matrices(), 12);
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ(writer.value().num_shards(), 2u);  // p: 10 bytes, then q: 6 and r: 2
  EXPECT_EQ(writer.value().total_bytes(), 18u);
  for (const TensorSpec& spec : two_matrices()) write_tensor(writer.value(), spec, 'x');
  ASSERT_TRUE(writer.value().finish().ok());
  const auto checkpoint = Checkpoint::open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(checkpoint.value().num_tensors(), 6u);
  EXPECT_EQ(checkpoint.value().shard_path("p.weight_scale_2"),
            folder.path() + "/model-00001-of-00002.safetensors");
  EXPECT_EQ(checkpoint.value().shard_path("r"),
            folder.path() + "/model-00002-of-00002.safetensors");
}

TEST(CheckpointWriter, OneShardHasThePlainNameAndNoIndex) {
  const TemporaryDirectory folder;
  auto writer = CheckpointWriter::create(folder.path(), two_matrices());
  ASSERT_TRUE(writer.ok());
  for (const TensorSpec& spec : two_matrices()) write_tensor(writer.value(), spec, 'x');
  ASSERT_TRUE(writer.value().finish().ok());
  EXPECT_EQ(list_directory(folder.path()).value(), std::vector<std::string>{"model.safetensors"});
  EXPECT_EQ(failure(folder.path()), "");
}

TEST(CheckpointWriter, GoesOnAfterFinishedShards) {
  const TemporaryDirectory folder;
  const auto specs = two_matrices();
  {
    auto writer = CheckpointWriter::create(folder.path(), specs, 12);
    ASSERT_TRUE(writer.ok());
    for (size_t i = 0; i < 4; ++i) write_tensor(writer.value(), specs[i], 'x');  // dies in shard 2
  }
  EXPECT_NE(failure(folder.path()), "");
  auto writer = CheckpointWriter::create(folder.path(), specs, 12);
  ASSERT_TRUE(writer.ok());
  EXPECT_FALSE(writer.value().needs("p.weight"));
  EXPECT_TRUE(writer.value().needs("q.weight"));
  for (size_t i = 3; i < specs.size(); ++i) write_tensor(writer.value(), specs[i], 'y');
  ASSERT_TRUE(writer.value().finish().ok());
  EXPECT_EQ(failure(folder.path()), "");

  // Another declaration keeps nothing and takes the old index away before it can lie.
  auto other = specs;
  other[0].shape = {6};
  auto changed = CheckpointWriter::create(folder.path(), other, 12);
  ASSERT_TRUE(changed.ok());
  EXPECT_TRUE(changed.value().needs("p.weight"));
  EXPECT_FALSE(file_exists(folder.path() + "/" + kIndexFile));
}

}  // namespace
}  // namespace nibble::formats
