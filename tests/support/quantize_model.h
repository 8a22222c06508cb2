// A small checkpoint in a temporary folder for the tests of quantize: the golden source, changed at
// will before it is written.
#pragma once

#include "base/thread_pool.h"
#include "device/device.h"
#include "formats/checkpoint.h"
#include "model/checkpoint_source.h"
#include "quantize/activation_maxima.h"
#include "quantize/exporter.h"
#include "tests/support/temp_folder.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace nibble::quantize {

inline constexpr const char* kGoldens = "testdata/goldens/modelopt";

struct TestTensor {
  DType dtype = DType::bf16;
  Shape shape;
  std::vector<std::byte> bytes;

  /// Sets one element of a BF16 tensor.
  void set_bf16(int64_t index, float value);
};
using TestTensors = std::map<std::string, TestTensor>;

/// Everything in a checkpoint folder.
TestTensors read_tensors(const std::string& folder);

/// A checkpoint folder with one shard.
void write_test_model(const std::string& folder, const TestTensors& tensors,
                      const std::string& config);

/// The golden source, opened for quantizing.
class TestModel {
 public:
  /// `edit` changes tensors and the text of config.json before they are written.
  using Edit = std::function<void(TestTensors& tensors, std::string& config)>;
  explicit TestModel(const Edit& edit = {});

  const std::string& folder() const { return folder_; }
  formats::Checkpoint& checkpoint() { return *checkpoint_; }
  model::CheckpointSource& source() { return *source_; }
  device::Device& device() { return *device_; }
  std::string output(const std::string& name) const { return temporary_.file(name); }

  /// Exports to output("export") with the golden maxima, as the command does.
  Result<ExportReport> run(const ExportJob& job, const ActivationMaxima& maxima,
                           const ExportProgress& progress);
  Result<ExportReport> run(const std::string& compat = "");
  ExportJob job(const std::string& compat = "") const;

  static ActivationMaxima golden_maxima();

 private:
  TempFolder temporary_;
  std::string folder_;
  ThreadPool pool_{2, {}};
  std::unique_ptr<device::Device> device_;
  std::unique_ptr<formats::Checkpoint> checkpoint_;
  std::unique_ptr<model::CheckpointSource> source_;
};

bool uninterrupted(const ExportPosition& position);

}  // namespace nibble::quantize
