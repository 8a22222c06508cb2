#include "device/cuda/upload_lanes.h"

#include <algorithm>

namespace nibble::device {
namespace {

constexpr size_t kComputeHalfBytes = size_t{16} << 20, kExtraHalfBytes = size_t{4} << 20;

}  // namespace

Result<std::unique_ptr<UploadLane>> UploadLanes::make_lane(cudaStream_t compute) {
  auto lane = std::make_unique<UploadLane>();
  lane->stream = compute;
  cudaError_t status = cudaSuccess;
  if (compute == nullptr) {
    status = cudaStreamCreateWithFlags(lane->own_stream.out(), cudaStreamNonBlocking);
    lane->stream = lane->own_stream.get();
  }
  void* raw = nullptr;
  if (status == cudaSuccess) status = cudaMalloc(&raw, kRawBytes);
  lane->raw = CudaBytes(raw);
  if (status != cudaSuccess) return cuda_error(status, "buffers for uploads");
  NIBBLE_RETURN_IF_ERROR(lane->ring.open(compute == nullptr ? kExtraHalfBytes : kComputeHalfBytes));
  return lane;
}

Result<void> UploadLanes::open(int ordinal, cudaStream_t compute) {
  ordinal_ = ordinal;
  NIBBLE_ASSIGN_OR_RETURN(auto lane, make_lane(compute));
  idle_.push_back(lane.get());
  lanes_.push_back(std::move(lane));
  return {};
}

UploadLanes::Use UploadLanes::take() {
  NIBBLE_CUDA_CHECK(cudaSetDevice(ordinal_));  // of this thread
  std::unique_lock lock(mutex_);
  if (idle_.empty() && lanes_.size() < kMaxLanes) {
    auto lane = make_lane(nullptr);
    if (lane.ok()) {
      lanes_.push_back(std::move(lane).value());
      return {*this, *lanes_.back()};
    }
  }
  free_.wait(lock, [&] { return !idle_.empty(); });
  const auto first = std::find(idle_.begin(), idle_.end(), lanes_.front().get());
  const auto taken = first == idle_.end() ? idle_.begin() : first;
  UploadLane& lane = **taken;
  idle_.erase(taken);
  return {*this, lane};
}

void UploadLanes::give_back(UploadLane& lane) {
  {
    const std::lock_guard lock(mutex_);
    idle_.push_back(&lane);
  }
  free_.notify_one();
}

void UploadLanes::synchronize() {
  for (size_t i = 1; i < lanes_.size(); ++i) {
    NIBBLE_CUDA_CHECK(cudaStreamSynchronize(lanes_[i]->stream));
  }
}

void UploadLanes::close_extra() {
  synchronize();
  NIBBLE_CHECK(idle_.size() == lanes_.size(), "lanes in use", idle_.size(), lanes_.size());
  idle_ = {lanes_.front().get()};
  lanes_.resize(1);
}

}  // namespace nibble::device
