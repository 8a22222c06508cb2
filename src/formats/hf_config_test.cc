// Tests for config.json, quantization and generation configurations: the demo model's own files and
// a table of edits to them, each with the words the refusal must contain.
#include "formats/hf_config.h"

#include "base/json.h"
#include "formats/generation_config.h"
#include "formats/test_files.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace nibble::formats {
namespace {

Json demo_config() {
  auto json = read_json_file("models/demo/config.json");
  return std::move(json).value();
}

Json parsed(const char* text) {
  auto json = parse_json(text, "test");
  return std::move(json).value();
}

Result<ModelConfig> parse(const Json& json) {
  return parse_model_config(dump_json(json), "config.json");
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(HfConfig, ReadsTheDemoModel) {
  const auto result = load_model_config("models/demo");
  ASSERT_TRUE(result.ok()) << result.error().message;
  const ModelConfig& c = result.value();
  EXPECT_EQ(c.model_type, "qwen3_5_moe");
  EXPECT_EQ(c.architectures, std::vector<std::string>{"Qwen3_5MoeForConditionalGeneration"});
  EXPECT_EQ(c.dtype, "bfloat16");
  EXPECT_EQ(c.vocab_size, 3072);
  EXPECT_EQ(c.hidden_size, 256);
  EXPECT_EQ(c.num_hidden_layers, 6);
  EXPECT_EQ(c.num_layers_of(LayerType::full_attention), 2);
  EXPECT_EQ(c.layer_types[2], LayerType::full_attention);
  EXPECT_EQ(c.layer_types[3], LayerType::linear_attention);
  EXPECT_EQ(c.num_attention_heads, 2);
  EXPECT_EQ(c.num_key_value_heads, 1);
  EXPECT_EQ(c.head_dim, 256);
  EXPECT_EQ(c.rotary_dim(), 64);
  EXPECT_EQ(c.linear_conv_size(), 2 * 256 + 512);
  EXPECT_EQ(c.num_experts, 16);
  EXPECT_EQ(c.num_experts_per_tok, 4);
  EXPECT_EQ(c.rope_theta, 1e7);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.mrope_section, (std::array<int64_t, 3>{11, 11, 10}));
  EXPECT_EQ(c.eos_token_id, std::vector<int64_t>{3028});
  EXPECT_FALSE(c.bos_token_id.has_value());
  EXPECT_EQ(c.image_token_id, 3040);
  EXPECT_EQ(c.mtp_num_hidden_layers, 1);
  EXPECT_FALSE(c.tie_word_embeddings);
  ASSERT_TRUE(c.vision_config.has_value());
  EXPECT_EQ(c.vision_config->depth, 4);
  EXPECT_EQ(c.vision_config->num_position_embeddings, 64);
  EXPECT_FALSE(c.quantization_config.has_value());
}

TEST(HfConfig, ReadsTheTextOnlyForm) {
  Json json = demo_config()["text_config"];
  json["tie_word_embeddings"] = true;
  json["eos_token_id"] = Json::array({1, 2});
  const auto result = parse(json);
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(result.value().hidden_size, 256);
  EXPECT_TRUE(result.value().tie_word_embeddings);
  EXPECT_EQ(result.value().eos_token_id, (std::vector<int64_t>{1, 2}));
  EXPECT_FALSE(result.value().vision_config.has_value());
}

TEST(HfConfig, RopeFormsAndTheirOrder) {
  Json json = demo_config();
  Json& text = json["text_config"];
  // Older: rope_scaling with "type"; theta and factor beside it.
  text["rope_scaling"] = parsed(R"({"type":"mrope","mrope_section":[11,11,10]})");
  text.erase("rope_parameters");
  text["rope_theta"] = 5000;
  EXPECT_EQ(parse(json).value().rope_theta, 5000.0);
  // Bare values and the family's default section.
  text.erase("rope_scaling");
  text["partial_rotary_factor"] = 0.25;
  EXPECT_EQ(parse(json).value().rotary_dim(), 64);
  // Inside wins over outside.
  text["rope_parameters"] =
      parsed(R"({"rope_theta":7000,"partial_rotary_factor":0.5,"mrope_section":[32,16,16]})");
  EXPECT_EQ(parse(json).value().rope_theta, 7000.0);
  EXPECT_EQ(parse(json).value().rotary_dim(), 128);
}

TEST(HfConfig, DerivesLayerTypes) {
  Json json = demo_config();
  json["text_config"].erase("layer_types");
  json["text_config"]["full_attention_interval"] = 2;
  const auto result = parse(json);
  ASSERT_TRUE(result.ok());
  const std::vector<LayerType> types = result.value().layer_types;
  ASSERT_EQ(types.size(), 6u);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(types[i] == LayerType::full_attention, i % 2 == 1);
}

TEST(HfConfig, RootTieIsAuthoritative) {
  Json json = demo_config();
  json["text_config"]["tie_word_embeddings"] = true;
  EXPECT_FALSE(parse(json).value().tie_word_embeddings);
  json.erase("tie_word_embeddings");
  EXPECT_TRUE(parse(json).value().tie_word_embeddings);
}

struct Edit {
  const char* pointer;
  const char* value;
  const char* message;
};

const Edit kRefused[] = {
    {"/model_type", R"("llama")", "model_type: found \"llama\""},
    {"/model_type", R"("qwen3_5")", "dense models are not supported"},
    {"/text_config/model_type", R"("qwen3_5_text")", "dense models are not supported"},
    {"/text_config", "3", "text_config: found 3, expected an object"},
    {"/text_config/attn_output_gate", "false", "attn_output_gate: found false"},
    {"/text_config/attention_bias", "true", "attention_bias: found true"},
    {"/text_config/rope_parameters/mrope_interleaved", "false", "mrope_interleaved: found false"},
    {"/text_config/rope_parameters/rope_type", R"("yarn")", "scaled RoPE is not supported"},
    {"/text_config/rope_parameters/rope_theta", "0", "rope_theta: found 0"},
    {"/text_config/rope_parameters/mrope_section", "[11,11]", "mrope_section: found [11,11]"},
    {"/text_config/rope_parameters/mrope_section", "[11,11,11]", "mrope_section: sum 33"},
    {"/text_config/rope_parameters/mrope_section", "[-1,22,11]", "mrope_section: found -1"},
    {"/text_config/rope_parameters/partial_rotary_factor", "0", "partial_rotary_factor"},
    {"/text_config/rope_parameters/partial_rotary_factor", "2", "partial_rotary_factor: found 2"},
    {"/text_config/hidden_act", R"("gelu")", "hidden_act: found \"gelu\""},
    {"/text_config/hidden_size", "0", "hidden_size: found 0"},
    {"/text_config/hidden_size", "-256", "hidden_size: found -256"},
    {"/text_config/hidden_size", "256.0", "hidden_size: found 256.0"},
    {"/text_config/hidden_size", R"("256")", "hidden_size: found \"256\""},
    {"/text_config/hidden_size", "9223372036854775808", "hidden_size: found 9223372036854775808"},
    {"/text_config/hidden_size", "null", "hidden_size: missing"},
    {"/text_config/vocab_size", "4294967296", "vocab_size: found 4294967296"},
    {"/text_config/vocab_size", "true", "vocab_size: found true"},
    {"/text_config/num_hidden_layers", "7", "layer_types: 6 entries, expected num_hidden_layers 7"},
    {"/text_config/num_hidden_layers", "1000000000", "num_hidden_layers: found 1000000000"},
    {"/text_config/layer_types/0", R"("mamba")", "layer_types: found \"mamba\""},
    {"/text_config/layer_types/0", "3", "layer_types: found 3"},
    {"/text_config/num_attention_heads", "0", "num_attention_heads: found 0"},
    {"/text_config/num_key_value_heads", "3", "num_attention_heads: 2 is not a multiple"},
    {"/text_config/linear_num_key_heads", "3", "linear_num_value_heads: 4 is not a multiple"},
    {"/text_config/linear_conv_kernel_dim", "1", "linear_conv_kernel_dim: found 1"},
    {"/text_config/num_experts", "null", "dense models are not supported"},
    {"/text_config/num_experts_per_tok", "17", "num_experts_per_tok: found 17"},
    {"/text_config/rms_norm_eps", "0", "rms_norm_eps: found 0"},
    {"/text_config/eos_token_id", "3072", "eos_token_id: found 3072"},
    {"/text_config/eos_token_id", "[1,-2]", "eos_token_id: found -2"},
    {"/image_token_id", "9999", "image_token_id: found 9999"},
    {"/architectures", "7", "architectures: found 7"},
    {"/vision_config", "[]", "vision_config: found []"},
    {"/vision_config/deepstack_visual_indexes", "[8]", "deepstack is not supported"},
    {"/vision_config/num_position_embeddings", "63", "expected a square number"},
    {"/vision_config/out_hidden_size", "128", "expected text hidden_size 256"},
    {"/vision_config/num_heads", "3", "not a multiple of 4 * num_heads"},
    {"/vision_config/hidden_act", R"("relu")", "hidden_act: found \"relu\""},
    {"/quantization_config", R"({"quant_method":"fp8"})", "quant_method: found \"fp8\""},
    {"/quantization_config", R"({"quant_method":"compressed-tensors","format":"pack-quantized"})",
     "format: found \"pack-quantized\""},
    {"/quantization_config", R"({"quant_method":"modelopt"})", "quant_algo: missing"},
    {"/quantization_config", R"({"quant_method":"modelopt","quant_algo":"NVFP4","group_size":32})",
     "group_size: found 32"},
    {"/quantization_config", R"({"quant_method":"modelopt","quant_algo":"MIXED_PRECISION"})",
     "quantized_layers: missing"},
    {"/quantization_config",
     R"({"quant_method":"modelopt","quant_algo":"NVFP4","kv_cache_scheme":{"num_bits":4,"type":"float"}})",
     "kv_cache_scheme: found"},
};

TEST(HfConfig, RefusesWhatItCannotComputeOrTrust) {
  for (const Edit& edit : kRefused) {
    Json json = demo_config();
    json[Json::json_pointer(edit.pointer)] = parsed(edit.value);
    const auto result = parse(json);
    ASSERT_FALSE(result.ok()) << edit.pointer << " = " << edit.value;
    EXPECT_TRUE(contains(result.error().message, edit.message))
        << edit.pointer << ": " << result.error().message;
    EXPECT_EQ(result.error().message.rfind("config.json", 0), 0u);
  }
}

TEST(HfConfig, ListsEveryProblem) {
  Json json = demo_config();
  json["text_config"]["hidden_size"] = -1;
  json["text_config"]["attention_bias"] = true;
  json["vision_config"]["depth"] = "x";
  const std::string message = parse(json).error().message;
  EXPECT_TRUE(contains(message, "3 problems")) << message;
  EXPECT_TRUE(contains(message, "text_config.hidden_size"));
  EXPECT_TRUE(contains(message, "text_config.attention_bias"));
  EXPECT_TRUE(contains(message, "vision_config.depth"));
}

TEST(HfConfig, RefusesDocumentsThatAreNoConfiguration) {
  for (const char* text : {"", "[]", "3", "{", "{}", "null", R"({"model_type":1})",
                           R"({"model_type":"qwen3_5_moe","model_type":"qwen3_5_moe"})"}) {
    EXPECT_FALSE(parse_model_config(text, "x").ok()) << text;
  }
}

constexpr const char* kMixed = R"({"quant_method":"modelopt","quant_algo":"MIXED_PRECISION",
  "ignore":[],"kv_cache_scheme":{"dynamic":false,"num_bits":8,"type":"float"},
  "producer":{"name":"modelopt","version":"0.47.0"},
  "quantized_layers":{"m.layers.0.mlp.experts":{"quant_algo":"NVFP4","group_size":16},
                      "m.layers.1.self_attn.q_proj":{"quant_algo":"FP8"}}})";

TEST(QuantizationConfig, ReadsConfigJson) {
  Json json = demo_config();
  json["quantization_config"] = parsed(kMixed);
  const auto result = parse(json);
  ASSERT_TRUE(result.ok()) << result.error().message;
  const QuantizationConfig& q = *result.value().quantization_config;
  EXPECT_EQ(q.quant_algo, "MIXED_PRECISION");
  EXPECT_EQ(q.kv_cache, KvCacheScheme::fp8);
  EXPECT_EQ(q.producer_version, "0.47.0");
  EXPECT_EQ(q.algorithm_for("m.layers.0.mlp.experts.3.gate_proj"), "NVFP4");
  EXPECT_EQ(q.algorithm_for("m.layers.1.self_attn.q_proj"), "FP8");
  EXPECT_EQ(q.algorithm_for("m.layers.1.self_attn.o_proj"), "");
}

TEST(QuantizationConfig, IgnoreListWithWildcards) {
  Json json = demo_config();
  json["quantization_config"] = parsed(
      R"({"quant_method":"modelopt","quant_algo":"NVFP4","ignore":["lm_head","m.visual*","m.layers.0.mlp.gate"]})");
  const auto result = parse(json);
  ASSERT_TRUE(result.ok()) << result.error().message;
  const QuantizationConfig& q = *result.value().quantization_config;
  EXPECT_EQ(q.kv_cache, KvCacheScheme::none);
  EXPECT_TRUE(q.ignores("lm_head"));
  EXPECT_TRUE(q.ignores("m.visual.blocks.0.attn.qkv"));
  EXPECT_TRUE(q.ignores("m.layers.0.mlp.gate"));
  EXPECT_FALSE(q.ignores("m.layers.0.mlp.gate_up_proj"));
  EXPECT_EQ(q.algorithm_for("m.layers.0.mlp.experts.0.up_proj"), "NVFP4");
  EXPECT_EQ(q.algorithm_for("lm_head"), "");
}

TEST(QuantizationConfig, WildcardMatch) {
  EXPECT_TRUE(wildcard_match("*", ""));
  EXPECT_TRUE(wildcard_match("a*c*", "abcbc"));
  EXPECT_TRUE(wildcard_match("*.gate", "x.mlp.gate"));
  EXPECT_FALSE(wildcard_match("*.gate", "x.mlp.gates"));
  EXPECT_FALSE(wildcard_match("", "a"));
  EXPECT_FALSE(wildcard_match("ab", "a"));
  const std::string many(10'000, 'a');  // exponential matchers never finish this
  EXPECT_FALSE(wildcard_match("*a*a*a*a*a*a*a*a*b", many));
}

TEST(QuantizationConfig, HfQuantConfigIsReadWhereConfigJsonHasNone) {
  const TemporaryDirectory folder;
  write_text(folder.path() + "/config.json", dump_json(demo_config()));
  write_text(
      folder.path() + "/hf_quant_config.json",
      R"({"producer":{"name":"modelopt","version":"0.44.0"},"quantization":{"quant_algo":"NVFP4",
                 "kv_cache_quant_algo":"FP8","group_size":16,"exclude_modules":["lm_head"]}})");
  const auto result = load_model_config(folder.path());
  ASSERT_TRUE(result.ok()) << result.error().message;
  ASSERT_TRUE(result.value().quantization_config.has_value());
  EXPECT_EQ(result.value().quantization_config->kv_cache, KvCacheScheme::fp8);
  EXPECT_TRUE(result.value().quantization_config->ignores("lm_head"));

  for (const char* bad :
       {"{}", "[]", R"({"quantization":{}})",
        R"({"quantization":{"quant_algo":"NVFP4","kv_cache_quant_algo":"INT8"}})"}) {
    write_text(folder.path() + "/hf_quant_config.json", bad);
    EXPECT_FALSE(load_model_config(folder.path()).ok()) << bad;
  }
}

TEST(GenerationConfig, ReadsTheDemoModelAndAbsence) {
  const auto demo = load_generation_config("models/demo");
  ASSERT_TRUE(demo.ok()) << demo.error().message;
  EXPECT_EQ(demo.value().eos_token_id, (std::vector<int64_t>{3030, 3028}));
  EXPECT_EQ(demo.value().do_sample, true);
  EXPECT_EQ(demo.value().temperature, 0.6);
  EXPECT_EQ(demo.value().top_k, 20);
  EXPECT_EQ(demo.value().top_p, 0.95);
  EXPECT_FALSE(demo.value().min_p.has_value());
  const TemporaryDirectory folder;
  const auto absent = load_generation_config(folder.path());
  ASSERT_TRUE(absent.ok());
  EXPECT_TRUE(absent.value().eos_token_id.empty());
}

TEST(GenerationConfig, RefusesBadValues) {
  EXPECT_EQ(parse_generation_config(R"({"eos_token_id":5})", "g").value().eos_token_id,
            std::vector<int64_t>{5});
  for (const char* text :
       {"[]", R"({"temperature":-1})", R"({"top_p":1.5})", R"({"top_k":-1})", R"({"min_p":"x"})",
        R"({"eos_token_id":[1,"2"]})", R"({"repetition_penalty":0})", R"({"do_sample":1})"}) {
    EXPECT_FALSE(parse_generation_config(text, "g").ok()) << text;
  }
}

}  // namespace
}  // namespace nibble::formats
