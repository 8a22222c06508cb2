// Read bandwidth of the GPU: what shares of "the wall" are taken of.
#pragma once

namespace nibble::cuda {

/// Bytes per second of one pass over 4 GiB, the best of ten; 0 when there is no such memory. Waits.
double read_bandwidth();

}  // namespace nibble::cuda
