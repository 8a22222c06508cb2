// Read bandwidth of the GPU: what all shares of "the wall" are taken of. And the marks for a
// profiler.
#pragma once

namespace nibble::check {

/// Bytes per second of one pass over 4 GiB, the best of ten.
double measure_read_bandwidth();

/// Between the two a profiler started with --profile-from-start off records.
void start_profiler();
void stop_profiler();

}  // namespace nibble::check
