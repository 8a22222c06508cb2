// Read bandwidth of the GPU: what all shares of "the wall" are taken of.
#pragma once

namespace nibble::check {

/// Bytes per second of one pass over 4 GiB, the best of ten.
double measure_read_bandwidth();

}  // namespace nibble::check
