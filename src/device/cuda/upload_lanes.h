// UploadLanes: ways for host bytes to the device. Lane 0 is on the compute stream; while weights
// are loaded by several threads, each has a lane with a copy stream of its own.
#pragma once

#include "device/cuda/handles.h"
#include "device/cuda/upload_ring.h"

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace nibble::device {

struct UploadLane {
  cudaStream_t stream = nullptr;
  CudaStream own_stream;  // empty: the compute stream
  UploadRing ring;
  CudaBytes raw;  // stored bytes on their way into a packed layout

  void push(std::byte* destination, std::span<const std::byte> host) {
    ring.push(destination, host, stream);
  }
};

class UploadLanes {
 public:
  static constexpr int kMaxLanes = 16;
  /// Bytes of a lane's `raw`.
  static constexpr size_t kRawBytes = size_t{24} << 20;

  /// A lane of the calling thread while it lives.
  class Use {
   public:
    Use(UploadLanes& lanes, UploadLane& lane) : lanes_(lanes), lane_(lane) {}
    ~Use() { lanes_.give_back(lane_); }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    UploadLane* operator->() const { return &lane_; }
    UploadLane& operator*() const { return lane_; }

   private:
    UploadLanes& lanes_;
    UploadLane& lane_;
  };

  /// Opens lane 0 on the compute stream of GPU number `ordinal`.
  Result<void> open(int ordinal, cudaStream_t compute);
  /// Lane 0 whenever it is free; else another, opened when there is none; waits where none can be.
  Use take();
  /// Waits for the copies of all lanes but lane 0.
  void synchronize();
  /// Frees all lanes but lane 0; none is in use.
  void close_extra();

 private:
  static Result<std::unique_ptr<UploadLane>> make_lane(cudaStream_t compute);
  void give_back(UploadLane& lane);

  int ordinal_ = 0;
  std::mutex mutex_;
  std::condition_variable free_;
  std::vector<std::unique_ptr<UploadLane>> lanes_;
  std::vector<UploadLane*> idle_;  // the first of it is the next
};

}  // namespace nibble::device
