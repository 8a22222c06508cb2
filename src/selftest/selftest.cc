#include "selftest/selftest.h"

#include "device/reference/reference_device.h"
#include "selftest/runner.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string_view>

namespace nibble::selftest {

double relative_l2(const std::vector<float>& found, const std::vector<float>& wanted) {
  if (found.size() != wanted.size()) return INFINITY;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    difference += (double{found[i]} - wanted[i]) * (double{found[i]} - wanted[i]);
    norm += double{wanted[i]} * wanted[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

namespace {

struct Group {
  std::string_view name;
  void (*check)(Runner&);
  device::Activations activations = device::Activations::full;  // of the devices it is for
};

constexpr Group kGroups[] = {{"linear", check_linear},
                             {"rows", check_rows},
                             {"sampling", check_sampling},
                             {"attention", check_attention},
                             {"delta", check_delta},
                             {"attention-block", check_attention_blocks},
                             {"delta-block", check_delta_blocks},
                             {"experts-block", check_expert_blocks},
                             {"head", check_heads},
                             {"experts", check_experts},
                             {"fp8", check_fp8, device::Activations::fp8},
                             {"fp4", check_fp4, device::Activations::nvfp4}};

}  // namespace

void Runner::start(const std::string& group) {
  group_ = group;
  set_workspace(model_workspace(512));
}

void Runner::set_workspace(const device::WorkspaceSpec& spec) {
  const auto set = [&](device::Device& device) {
    const Result<void> done = device.set_workspace(spec);
    NIBBLE_CHECK(done.ok(), "workspace", done.ok() ? "" : done.error().message);
  };
  set(reference_);
  for (device::Device* device : devices_) set(*device);
}

void Runner::compare(const std::string& name, const Body& body) {
  const std::vector<Part> wanted = body(reference_);
  for (device::Device* device : devices_) {
    const std::vector<Part> found = body(*device);
    for (size_t i = 0; i < wanted.size(); ++i) {
      judge(*device, name + " " + wanted[i].name, relative_l2(found[i].values, wanted[i].values),
            wanted[i].limit);
    }
  }
}

void Runner::judge(const device::Device& device, const std::string& name, double found,
                   double limit) {
  sink_({device.description(), group_, (is_exact() ? "exact " : "f32 ") + name, found, limit});
}

device::WorkspaceSpec model_workspace(int64_t rows) {
  device::WorkspaceSpec spec;
  spec.max_rows = rows;
  spec.hidden_size = 2048;
  spec.vocab_size = 248320;
  spec.attention_heads = 16, spec.attention_kv_heads = 2, spec.head_dim = 256, spec.rotary_dim = 64;
  spec.key_heads = 16, spec.value_heads = 32, spec.key_head_dim = 128, spec.value_head_dim = 128;
  spec.num_experts = 256, spec.num_experts_per_tok = 8;
  spec.moe_intermediate_size = 512, spec.shared_intermediate_size = 512;
  spec.rope_theta = 1e7;
  spec.mrope_section[0] = 11, spec.mrope_section[1] = 11, spec.mrope_section[2] = 10;
  return spec;
}

std::vector<std::string> groups() {
  std::vector<std::string> names;
  for (const Group& group : kGroups) names.emplace_back(group.name);
  return names;
}

Result<void> run(std::span<device::Device* const> devices, const std::vector<std::string>& only,
                 ThreadPool& pool, const Sink& sink) {
  NIBBLE_CHECK(!devices.empty(), "no device to check");
  for (const std::string& name : only) {
    const auto is_it = [&](const Group& group) { return group.name == name; };
    if (std::none_of(std::begin(kGroups), std::end(kGroups), is_it)) {
      std::string known;
      for (const Group& group : kGroups) known += " " + std::string(group.name);
      return Error{ErrorCode::invalid_argument,
                   "no operations called '" + name + "', expected one of" + known};
    }
  }
  const auto reference = device::make_reference_device(devices.front()->arithmetic(), pool);
  Runner runner(*reference, devices, sink);
  for (const Group& group : kGroups) {
    if (!only.empty() && std::find(only.begin(), only.end(), group.name) == only.end()) continue;
    if (group.activations != devices.front()->activations()) continue;
    runner.start(std::string(group.name));
    group.check(runner);
  }
  return {};
}

}  // namespace nibble::selftest
