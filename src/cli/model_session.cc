#include "cli/model_session.h"

#include "base/cpu_features.h"
#include "base/sizes.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "device/cpu/cpu_device.h"
#include "device/cuda/cuda_device.h"
#include "model/checkpoint_source.h"
#include "model/dummy_source.h"
#include "runtime/host_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdlib>

namespace nibble::cli {
namespace {

using device::Arithmetic;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int32_t wish_or(int64_t wish, int32_t fallback) {
  return wish > 0 ? static_cast<int32_t>(std::min<int64_t>(wish, INT32_MAX)) : fallback;
}

Error unknown_device(const std::string& device) {
  return {ErrorCode::invalid_argument,
          fmt::format("--device: found '{}', expected auto, cpu or cuda:N", device)};
}

// "cuda" and "cuda:0" mean the first GPU.
Result<int> cuda_ordinal(const std::string& device) {
  const std::string number = device == "cuda" ? "0" : device.substr(device.find(':') + 1);
  int ordinal = 0;
  const auto [end, failure] =
      std::from_chars(number.data(), number.data() + number.size(), ordinal);
  if (failure != std::errc() || end != number.data() + number.size() || ordinal < 0) {
    return unknown_device(device);
  }
  return ordinal;
}

Result<runtime::MemoryWishes> memory_wishes(const ModelOptions& options) {
  runtime::MemoryWishes wishes;
  if (!options.memory.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(const int64_t bytes, parse_bytes(options.memory));
    wishes.ceiling_bytes = static_cast<size_t>(bytes);
    wishes.ceiling_source = "--memory";
    return wishes;
  }
  NIBBLE_ASSIGN_OR_RETURN(const std::optional<int> gpu,
                          chosen_gpu(options.device, options.arithmetic));
  if (gpu) {
    NIBBLE_ASSIGN_OR_RETURN(const device::CudaDeviceInfo info, device::cuda_device_info(*gpu));
    wishes.ceiling_bytes = runtime::default_memory_ceiling(info.free_bytes);
  } else {
    NIBBLE_ASSIGN_OR_RETURN(const size_t available, runtime::available_memory_bytes());
    wishes.ceiling_bytes = runtime::default_memory_ceiling(available);
  }
  wishes.ceiling_source = "available memory less a tenth";
  return wishes;
}

device::Activations activations_of(const DeviceChoice& choice) {
  return choice.activations == "fp8"     ? device::Activations::fp8
         : choice.activations == "nvfp4" ? device::Activations::nvfp4
                                         : device::Activations::full;
}

}  // namespace

std::unique_ptr<ThreadPool> make_thread_pool(int threads) {
  const std::vector<int> cores = usable_physical_cores();
  return std::make_unique<ThreadPool>(threads > 0 ? threads : static_cast<int>(cores.size()),
                                      cores);
}

Result<std::optional<int>> chosen_gpu(const std::string& device, const std::string& arithmetic) {
  if (device.starts_with("cuda")) {
    NIBBLE_ASSIGN_OR_RETURN(const int ordinal, cuda_ordinal(device));
    return std::optional<int>(ordinal);
  }
  if (device != "auto" && device != "cpu") return unknown_device(device);
  const bool found = device == "auto" && arithmetic != "f32" && device::cuda_device_info(0).ok();
  return found ? std::optional<int>(0) : std::nullopt;
}

DeviceChoice device_choice(const ModelOptions& options) {
  return {options.device, options.arithmetic, options.threads, options.activations};
}

Result<ComputeDevice> make_compute_device(const DeviceChoice& choice) {
  NIBBLE_ASSIGN_OR_RETURN(const IsaLevel level, select_isa_level(environment("NIBBLE_FORCE_ISA")));
  const Arithmetic kind = choice.arithmetic == "f32" ? Arithmetic::f32 : Arithmetic::exact;
  ComputeDevice out;
  out.pool = make_thread_pool(choice.threads);
  NIBBLE_ASSIGN_OR_RETURN(const std::optional<int> gpu,
                          chosen_gpu(choice.device, choice.arithmetic));
  if (gpu) {
    NIBBLE_ASSIGN_OR_RETURN(out.device,
                            device::make_cuda_device(kind, {*gpu, activations_of(choice)}));
  } else if (choice.activations != "full") {
    return Error{ErrorCode::invalid_argument, "--activations " + choice.activations +
                                                  ": found device cpu, wanted a GPU (--device "
                                                  "cuda:N)"};
  } else {
    out.device = device::make_cpu_device(kind, level, *out.pool);
  }
  return out;
}

Result<void> ModelSession::open_device(const ModelOptions& options) {
  NIBBLE_ASSIGN_OR_RETURN(ComputeDevice made, make_compute_device(device_choice(options)));
  pool_ = std::move(made.pool);
  device_ = std::move(made.device);
  return {};
}

Result<void> ModelSession::open_source(const ModelOptions& options) {
  NIBBLE_ASSIGN_OR_RETURN(formats::ModelConfig config, formats::load_model_config(options.model));
  if (options.load_format == "dummy") {
    if (config.quantization_config &&
        config.quantization_config->quant_method == "compressed-tensors") {
      return Error{ErrorCode::unsupported,
                   "--load-format dummy: needs ModelOpt's configuration; compressed-tensors names "
                   "modules by patterns of its own"};
    }
    source_ = std::make_unique<model::DummySource>(std::move(config));
    return {};
  }
  NIBBLE_ASSIGN_OR_RETURN(checkpoint_, formats::Checkpoint::open(options.model));
  NIBBLE_ASSIGN_OR_RETURN(source_, model::CheckpointSource::open(*checkpoint_, config));
  return {};
}

Result<void> ModelSession::choose_kv_dtype(const ModelOptions& options) {
  const std::string& wish = options.kv_cache_dtype;
  if (wish == "auto") {
    const auto& quantization = config().quantization_config;
    const bool fp8 = quantization && quantization->kv_cache == formats::KvCacheScheme::fp8;
    kv_dtype_ = options.arithmetic == "f32" ? DType::f32 : (fp8 ? DType::f8_e4m3 : DType::bf16);
  } else {
    kv_dtype_ = wish == "float32" ? DType::f32 : (wish == "fp8" ? DType::f8_e4m3 : DType::bf16);
  }
  return {};
}

Result<void> ModelSession::plan(const ModelOptions& options, const SessionNeeds& needs) {
  limits_.max_num_seqs = wish_or(options.max_num_seqs, needs.max_num_seqs);
  limits_.max_num_batched_tokens =
      wish_or(options.max_num_batched_tokens, needs.max_num_batched_tokens);
  const int32_t context = wish_or(options.max_model_len, needs.max_model_len);
  limits_.max_model_len =
      context > 0 ? context : static_cast<int32_t>(config().max_position_embeddings);
  const auto sized_capacity = [&] {
    runtime::StepCapacity capacity = runtime::step_capacity(limits_);
    if (needs.logits_of_all_rows) capacity.logit_rows = capacity.rows;
    return capacity;
  };
  capacity_ = sized_capacity();
  const runtime::MemoryNeeds sizes =
      runtime::memory_needs(*device_, *source_, capacity_, kv_dtype_);
  packed_weight_bytes_ = sizes.weight_bytes;
  NIBBLE_ASSIGN_OR_RETURN(runtime::MemoryWishes wishes, memory_wishes(options));
  wishes.max_num_seqs = limits_.max_num_seqs;
  wishes.max_model_len = context;
  NIBBLE_ASSIGN_OR_RETURN(plan_, runtime::plan_memory(sizes, wishes));
  for (const std::string& line : plan_.adjusted) fmt::print(stderr, "{}\n", line);
  limits_.max_num_seqs = plan_.max_num_seqs;
  limits_.max_model_len = plan_.max_model_len;
  limits_.num_pages = plan_.num_pages;
  capacity_ = sized_capacity();
  return {};
}

Result<void> ModelSession::load() {
  Progress progress("loading");
  const auto report = [&](int done, int total) {
    progress.update(done, total);
    return interrupt_signal() == 0;
  };
  const auto started = std::chrono::steady_clock::now();
  NIBBLE_ASSIGN_OR_RETURN(model_, model::LoadedModel::load(*device_, *source_, report));
  load_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return {};
}

Result<std::unique_ptr<ModelSession>> ModelSession::open(const ModelOptions& options,
                                                         const SessionNeeds& needs) {
  auto session = std::unique_ptr<ModelSession>(new ModelSession);
  NIBBLE_RETURN_IF_ERROR(session->open_device(options));
  NIBBLE_RETURN_IF_ERROR(session->open_source(options));
  NIBBLE_RETURN_IF_ERROR(session->choose_kv_dtype(options));
  NIBBLE_RETURN_IF_ERROR(session->plan(options, needs));
  NIBBLE_RETURN_IF_ERROR(session->load());
  runtime::ModelExecutorOptions executor;
  executor.capacity = session->capacity_;
  executor.num_pages = session->limits_.num_pages;
  executor.num_slots = session->limits_.max_num_seqs;
  executor.kv_dtype = session->kv_dtype_;
  executor.vocab_limit = needs.vocab_limit > 0 ? needs.vocab_limit
                                               : static_cast<int32_t>(session->config().vocab_size);
  NIBBLE_ASSIGN_OR_RETURN(session->executor_,
                          runtime::ModelExecutor::create(*session->device_, session->config(),
                                                         session->model_->weights(), executor));
  return session;
}

}  // namespace nibble::cli
