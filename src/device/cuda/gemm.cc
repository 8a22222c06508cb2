// cuBLASLt is column-major: our row-major y is its n x m matrix y^T = (W^T)^T x^T.
#include "device/cuda/gemm.h"

#include <string>

namespace nibble::device {
namespace {

void check(cublasStatus_t status, const char* what) {
  NIBBLE_CHECK(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt", what, static_cast<int>(status));
}

}  // namespace

Gemm::~Gemm() {
  for (auto& [key, shape] : shapes_) {
    (void)lt_.layout_destroy(shape.w);
    (void)lt_.layout_destroy(shape.x);
    (void)lt_.layout_destroy(shape.y);
    (void)lt_.desc_destroy(shape.product);
  }
  if (handle_ != nullptr) (void)lt_.destroy(handle_);
}

Result<void> Gemm::load() {
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  // The loader's path first, then where the toolkit of this build was.
  NIBBLE_ASSIGN_OR_RETURN(
      library_, SharedLibrary::open({name, std::string(NIBBLE_CUDA_LIBRARY_DIR "/") + name}));
  NIBBLE_RETURN_IF_ERROR(library_.find("cublasLtCreate", lt_.create));
  NIBBLE_RETURN_IF_ERROR(library_.find("cublasLtDestroy", lt_.destroy));
  NIBBLE_RETURN_IF_ERROR(library_.find("cublasLtMatmul", lt_.matmul));
  NIBBLE_RETURN_IF_ERROR(library_.find("cublasLtMatmulDescCreate", lt_.desc_create));
  NIBBLE_RETURN_IF_ERROR(library_.find("cublasLtMatmulDescDestroy", lt_.desc_destroy));
  NIBBLE_RETURN_IF_ERROR(library_.find("cublasLtMatmulDescSetAttribute", lt_.desc_set));
  NIBBLE_RETURN_IF_ERROR(library_.find("cublasLtMatrixLayoutCreate", lt_.layout_create));
  NIBBLE_RETURN_IF_ERROR(library_.find("cublasLtMatrixLayoutDestroy", lt_.layout_destroy));
  NIBBLE_RETURN_IF_ERROR(library_.find("cublasLtMatmulPreferenceCreate", lt_.preference_create));
  NIBBLE_RETURN_IF_ERROR(library_.find("cublasLtMatmulPreferenceDestroy", lt_.preference_destroy));
  NIBBLE_RETURN_IF_ERROR(library_.find("cublasLtMatmulPreferenceSetAttribute", lt_.preference_set));
  NIBBLE_RETURN_IF_ERROR(library_.find("cublasLtMatmulAlgoGetHeuristic", lt_.heuristic));
  return {};
}

Result<void> Gemm::open() {
  NIBBLE_RETURN_IF_ERROR(load());
  const cublasStatus_t status = lt_.create(&handle_);
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  return Error{ErrorCode::unsupported,
               "cublasLtCreate: status " + std::to_string(static_cast<int>(status))};
}

void Gemm::set_scales(const Shape& shape, const GemmArgs& args) {
  if (!args.is_fp8()) return;
  const auto set = [&](cublasLtMatmulDescAttributes_t what, const float* scales) {
    check(lt_.desc_set(shape.product, what, &scales, sizeof(scales)), "scales");
  };
  set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, args.w_scales);
  set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, args.x_scales);
}

const Gemm::Shape& Gemm::shape_of(const GemmArgs& args) {
  const Key key{
      args.m, args.n, args.k, args.y_stride, args.y_is_bf16, args.is_fp8(), args.multiprocessors};
  const auto found = shapes_.find(key);
  if (found != shapes_.end()) return found->second;
  Shape shape;
  check(lt_.desc_create(&shape.product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "descriptor");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check(lt_.desc_set(shape.product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)),
        "transpose");
  if (args.multiprocessors > 0) {
    check(lt_.desc_set(shape.product, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, &args.multiprocessors,
                       sizeof(args.multiprocessors)),
          "multiprocessors");
  }
  if (args.is_fp8()) {
    const int32_t by_row = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    for (const auto mode : {CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_DESC_B_SCALE_MODE}) {
      check(lt_.desc_set(shape.product, mode, &by_row, sizeof(by_row)), "scale mode");
    }
    // Sums stay where the tensor cores add: a sixth faster than adding them up in f32 on the way.
    const int8_t fast = 1;
    check(lt_.desc_set(shape.product, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof(fast)),
          "fast accumulation");
    set_scales(shape, args);
  }
  const cudaDataType_t type = args.is_fp8() ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
  const auto m = static_cast<uint64_t>(args.m), n = static_cast<uint64_t>(args.n),
             k = static_cast<uint64_t>(args.k);
  check(lt_.layout_create(&shape.w, type, k, n, args.k), "layout of W");
  check(lt_.layout_create(&shape.x, type, k, m, args.k), "layout of x");
  check(lt_.layout_create(&shape.y, args.y_is_bf16 ? CUDA_R_16BF : CUDA_R_32F, n, m, args.y_stride),
        "layout of y");
  cublasLtMatmulPreference_t preference = nullptr;
  check(lt_.preference_create(&preference), "preference");
  const size_t workspace = kWorkspaceBytes;
  check(lt_.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                           sizeof(workspace)),
        "workspace");
  cublasLtMatmulHeuristicResult_t result = {};
  int count = 0;
  check(lt_.heuristic(handle_, shape.product, shape.w, shape.x, shape.y, shape.y, preference, 1,
                      &result, &count),
        "heuristic");
  (void)lt_.preference_destroy(preference);
  NIBBLE_CHECK(count == 1, "cuBLASLt has no algorithm", args.m, args.n, args.k);
  shape.algorithm = result.algo;
  return shapes_.emplace(key, shape).first->second;
}

void Gemm::run(const GemmArgs& args, void* workspace, cudaStream_t stream) {
  const Shape& shape = shape_of(args);
  set_scales(shape, args);
  const float beta = args.accumulate ? 1.0f : 0.0f;
  check(lt_.matmul(handle_, shape.product, &args.alpha, args.w, shape.w, args.x, shape.x, &beta,
                   args.y, shape.y, args.y, shape.y, &shape.algorithm, workspace, kWorkspaceBytes,
                   stream),
        "matmul");
}

}  // namespace nibble::device
