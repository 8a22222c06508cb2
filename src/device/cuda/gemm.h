// Gemm: BF16 and E4M3 matrix products of large steps through cuBLASLt, opened when the device is.
//
// The library has half a gigabyte: linked, every command of a CUDA build would wait for the loader.
// y[m][n] (+)= alpha * x[m][k] W[n][k]^T, f32 accumulation; E4M3 rows of x and W with a scale each.
// The algorithm of a shape is asked for once and kept.
#pragma once

#include "device/cuda/handles.h"
#include "device/cuda/shared_library.h"

#include <cstdint>
#include <cublasLt.h>
#include <map>
#include <tuple>

namespace nibble::device {

struct GemmArgs {
  const void* x;
  const void* w;
  void* y;
  bool y_is_bf16;
  bool accumulate;
  float alpha;
  int64_t m, n, k;
  int64_t y_stride;  // elements from row to row
  int32_t multiprocessors = 0;  // to plan for; 0: all
  // Of E4M3 x and W: a factor for each row. Both, or neither (BF16).
  const float* x_scales = nullptr;
  const float* w_scales = nullptr;

  bool is_fp8() const { return x_scales != nullptr; }
};

class Gemm {
 public:
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  Gemm() = default;
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  Result<void> open();
  /// k and n: multiples of 8, of 16 with E4M3.
  void run(const GemmArgs& args, void* workspace, cudaStream_t stream);

 private:
  struct Shape {
    cublasLtMatmulDesc_t product = nullptr;
    cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
    cublasLtMatmulAlgo_t algorithm = {};
  };
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, bool, bool, int32_t>;
  /// The functions of the library that are used.
  struct Functions {
    decltype(&cublasLtCreate) create = nullptr;
    decltype(&cublasLtDestroy) destroy = nullptr;
    decltype(&cublasLtMatmul) matmul = nullptr;
    decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
    decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
    decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
    decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
    decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
    decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
    decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
    decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
    decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  };
  Result<void> load();
  const Shape& shape_of(const GemmArgs& args);
  void set_scales(const Shape& shape, const GemmArgs& args);

  SharedLibrary library_;
  Functions lt_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, Shape> shapes_;
};

}  // namespace nibble::device
