// Writes a checkpoint of dummy weights, a shard per layer, for timing how fast one is loaded.
#include "base/file.h"
#include "base/json.h"
#include "formats/hf_config.h"
#include "formats/safetensors_writer.h"
#include "model/dummy_source.h"
#include "tests/cuda/cuda_check.h"

#include <nlohmann/json.hpp>

#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

namespace nibble::check {
namespace {

using formats::LinearWeight;
using formats::TensorSpec;
using model::Member;
using model::TensorKind;

void ensure(const Result<void>& result) {
  NIBBLE_CHECK(result.ok(), "writing", result.ok() ? "" : result.error().message);
}

using Take = std::function<void(const TensorSpec&, std::span<const std::byte>)>;

void take_linear(const std::string& stem, const LinearWeight& weight, const Take& take) {
  const auto bytes = [](ConstTensorView view) { return std::span(view.data(), view.bytes()); };
  const auto scalar = [&](const char* suffix, float value) {
    take({stem + suffix, DType::f32, Shape{}}, std::as_bytes(std::span(&value, 1)));
  };
  take({stem + ".weight", weight.weight.dtype(), weight.weight.shape()}, bytes(weight.weight));
  if (weight.format == formats::WeightFormat::nvfp4) {
    take({stem + ".weight_scale", DType::f8_e4m3, weight.weight_scale.shape()},
         bytes(weight.weight_scale));
    scalar(".weight_scale_2", weight.weight_scale_2);
    scalar(".input_scale", 1.0f);
  } else if (weight.format == formats::WeightFormat::fp8) {
    scalar(".weight_scale", weight.weight_scale_2);
    scalar(".input_scale", 1.0f);
  }
}

/// Every tensor of a layer, or (-1) of the model.
void take_tensors(model::WeightSource& source, int layer, const Take& take) {
  const model::NamePrefix prefix;
  const formats::ModelConfig& c = source.config();
  for (const model::TensorRule& rule : model::tensor_rules()) {
    if ((rule.scope == model::Scope::global) != (layer < 0) || rule.kind == TensorKind::bank) {
      continue;
    }
    if (layer >= 0 && !model::occurs_in(rule, c.layer_types[static_cast<size_t>(layer)])) continue;
    const Member m = rule.member;
    if (m == Member::expert_up || m == Member::expert_down || m == Member::shared_up ||
        m == Member::shared_down) {
      continue;  // come with the gate
    }
    if (m == Member::expert_gate || m == Member::shared_gate) {
      const bool shared = m == Member::shared_gate;
      for (int64_t e = 0; e < (shared ? 1 : c.num_experts); ++e) {
        const auto expert = source.expert(layer, shared ? model::kSharedExpert : e);
        NIBBLE_CHECK(expert.ok(), "expert");
        const auto stem = [&](Member routed, Member of_shared) {
          return prefix.stem(shared ? of_shared : routed, layer, e);
        };
        take_linear(stem(Member::expert_gate, Member::shared_gate), expert.value().gate, take);
        take_linear(stem(Member::expert_up, Member::shared_up), expert.value().up, take);
        take_linear(stem(Member::expert_down, Member::shared_down), expert.value().down, take);
      }
    } else if (m == Member::embed_tokens) {
      const ConstTensorView table = source.embedding().value();
      take({prefix.name(m, -1), table.dtype(), table.shape()}, {table.data(), table.bytes()});
    } else if (rule.kind == TensorKind::linear) {
      take_linear(prefix.stem(m, layer), source.linear(m, layer).value(), take);
    } else {
      const std::vector<float> values = source.vector(m, layer).value();
      take({prefix.name(m, layer), DType::f32, model::expected_shape(m, c)},
           std::as_bytes(std::span(values)));
    }
  }
}

}  // namespace

void write_checkpoint(const std::string& config_folder, const std::string& folder) {
  namespace fs = std::filesystem;
  auto config = formats::load_model_config(config_folder);
  NIBBLE_CHECK(config.ok(), "configuration", config.ok() ? "" : config.error().message);
  fs::create_directories(folder);
  for (const fs::directory_entry& file : fs::directory_iterator(config_folder)) {
    fs::copy_file(file.path(), fs::path(folder) / file.path().filename(),
                  fs::copy_options::overwrite_existing);
  }
  const model::DummySource source(config.value());
  std::mutex mutex;
  OrderedJson weight_map = OrderedJson::object();
  ThreadPool pool(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())), {});
  pool.parallel_for(config.value().num_hidden_layers + 1, [&](int64_t task, int) {
    const auto layer = static_cast<int>(task) - 1;
    const auto own = source.fork();
    const std::string shard = "model-" + std::to_string(task) + ".safetensors";
    std::vector<TensorSpec> specs;
    take_tensors(*own, layer, [&](const TensorSpec& spec, std::span<const std::byte>) {
      specs.push_back(spec);
    });
    auto writer = formats::SafetensorsWriter::create(folder + "/" + shard, specs);
    NIBBLE_CHECK(writer.ok(), "writing", writer.ok() ? "" : writer.error().message);
    take_tensors(*own, layer, [&](const TensorSpec& spec, std::span<const std::byte> bytes) {
      ensure(writer.value().append(spec.name, bytes));
    });
    ensure(writer.value().finish());
    const std::lock_guard lock(mutex);
    for (const TensorSpec& spec : specs) weight_map[spec.name] = shard;
  });
  const OrderedJson index = {{"metadata", OrderedJson::object()}, {"weight_map", weight_map}};
  ensure(write_file_atomic(folder + "/model.safetensors.index.json", dump_json(index, 0)));
}

}  // namespace nibble::check
