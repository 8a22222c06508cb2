// cuda_check PART...: runs the parts named on GPU 0 and says what agreed. Exit code 1 if anything
// failed.
//
//   goldens FOLDER MODEL   a text_X family at f32 and exact, through the composed blocks
//   text MODEL FILE LIMIT  CPU exact against GPU on a text, teacher-forced; LIMIT: of the mean KL
//                          divergence
//   dummy CONFIG           CPU exact against GPU with dummy weights
//   checkpoint CONFIG DIR  writes a checkpoint of dummy weights
#include "tests/cuda/cuda_check.h"

#include "base/cpu_features.h"
#include "device/cpu/cpu_device.h"
#include "device/cuda/cuda_device.h"
#include "tests/golden/text_goldens.h"

#include <cstdio>
#include <cstring>

namespace nibble::check {

std::unique_ptr<device::Device> open_gpu(device::Arithmetic arithmetic) {
  auto gpu = device::make_cuda_device(arithmetic, {});
  NIBBLE_CHECK(gpu.ok(), "opening the GPU", gpu.ok() ? "" : gpu.error().message);
  return std::move(gpu).value();
}

std::unique_ptr<device::Device> open_cpu(device::Arithmetic arithmetic, ThreadPool& pool) {
  auto level = select_isa_level("");
  NIBBLE_CHECK(level.ok(), "instruction set", level.ok() ? "" : level.error().message);
  return device::make_cpu_device(arithmetic, level.value(), pool);
}

namespace {

golden::DeviceOf gpu_device_of() {
  return [](device::Arithmetic arithmetic) {
    return [arithmetic](ThreadPool&) { return open_gpu(arithmetic); };
  };
}

int run(int count, char** words) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // a crash must not swallow what was found
  golden::Report report;
  for (int i = 1; i < count; ++i) {
    const std::string part = words[i];
    const auto next = [&] {
      NIBBLE_CHECK(i + 1 < count, "argument missing after", part);
      return std::string(words[++i]);
    };
    std::printf("== %s\n", part.c_str());
    if (part == "goldens") {
      const std::string folder = next(), model = next();
      golden::run_text_family(folder, model, "cuda." + folder.substr(folder.rfind('/') + 1), report,
                              gpu_device_of());
    } else if (part == "text") {
      const std::string model = next(), file = next(), limit = next();
      check_text(model, file, std::stod(limit), "cuda.text." + file.substr(file.rfind('/') + 1),
                 report);
    } else if (part == "dummy") {
      check_dummy(next(), report);
    } else if (part == "checkpoint") {
      const std::string config = next();
      write_checkpoint(config, next());
    } else {
      std::fprintf(stderr, "cuda_check: no part called %s\n", part.c_str());
      return 2;
    }
    report.print_groups();
    std::fflush(stdout);
  }
  report.print_summary();
  return report.failed() > 0 ? 1 : 0;
}

}  // namespace
}  // namespace nibble::check

int main(int count, char** words) {
  return nibble::check::run(count, words);
}
