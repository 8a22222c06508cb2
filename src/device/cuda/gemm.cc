// cuBLASLt is column-major: our row-major y is its n x m matrix y^T = (W^T)^T x^T.
#include "device/cuda/gemm.h"

namespace nibble::device {
namespace {

void check(cublasStatus_t status, const char* what) {
  NIBBLE_CHECK(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt", what, static_cast<int>(status));
}

}  // namespace

Gemm::~Gemm() {
  for (auto& [key, shape] : shapes_) {
    (void)cublasLtMatrixLayoutDestroy(shape.w);
    (void)cublasLtMatrixLayoutDestroy(shape.x);
    (void)cublasLtMatrixLayoutDestroy(shape.y);
    (void)cublasLtMatmulDescDestroy(shape.product);
  }
  if (handle_ != nullptr) (void)cublasLtDestroy(handle_);
}

Result<void> Gemm::open() {
  const cublasStatus_t status = cublasLtCreate(&handle_);
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  return Error{ErrorCode::unsupported,
               "cublasLtCreate: status " + std::to_string(static_cast<int>(status))};
}

const Gemm::Shape& Gemm::shape_of(const GemmArgs& args) {
  const Key key{args.m, args.n, args.k, args.y_stride, args.y_is_bf16};
  const auto found = shapes_.find(key);
  if (found != shapes_.end()) return found->second;
  Shape shape;
  check(cublasLtMatmulDescCreate(&shape.product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "descriptor");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check(cublasLtMatmulDescSetAttribute(shape.product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                       sizeof(transposed)),
        "transpose");
  const auto m = static_cast<uint64_t>(args.m), n = static_cast<uint64_t>(args.n),
             k = static_cast<uint64_t>(args.k);
  check(cublasLtMatrixLayoutCreate(&shape.w, CUDA_R_16BF, k, n, args.k), "layout of W");
  check(cublasLtMatrixLayoutCreate(&shape.x, CUDA_R_16BF, k, m, args.k), "layout of x");
  check(cublasLtMatrixLayoutCreate(&shape.y, args.y_is_bf16 ? CUDA_R_16BF : CUDA_R_32F, n, m,
                                   args.y_stride),
        "layout of y");
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "preference");
  const size_t workspace = kWorkspaceBytes;
  check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &workspace, sizeof(workspace)),
        "workspace");
  cublasLtMatmulHeuristicResult_t result = {};
  int count = 0;
  check(cublasLtMatmulAlgoGetHeuristic(handle_, shape.product, shape.w, shape.x, shape.y, shape.y,
                                       preference, 1, &result, &count),
        "heuristic");
  (void)cublasLtMatmulPreferenceDestroy(preference);
  NIBBLE_CHECK(count == 1, "cuBLASLt has no algorithm", args.m, args.n, args.k);
  shape.algorithm = result.algo;
  return shapes_.emplace(key, shape).first->second;
}

void Gemm::run(const GemmArgs& args, void* workspace, cudaStream_t stream) {
  const Shape& shape = shape_of(args);
  const float beta = args.accumulate ? 1.0f : 0.0f;
  check(cublasLtMatmul(handle_, shape.product, &args.alpha, args.w, shape.w, args.x, shape.x, &beta,
                       args.y, shape.y, args.y, shape.y, &shape.algorithm, workspace,
                       kWorkspaceBytes, stream),
        "matmul");
}

}  // namespace nibble::device
