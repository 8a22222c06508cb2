// Whose NVFP4 bytes are written: what differs between ModelOpt's versions and machines (spec nvfp4.md
// 1.4, 1.5).
//
// Plain types, apart from the encoder so that the device interface can name them.
#pragma once

namespace nibble::formats {

/// How a division by a constant is done: ieee divides (ModelOpt on a CPU), recip multiplies by the
/// rounded reciprocal (ModelOpt on a GPU, and the published files).
enum class ScalarDivision { recip, ieee };

/// Which ModelOpt's bytes: the last bit of scalar divisions, and the range of block scales.
struct Nvfp4Rules {
  ScalarDivision division = ScalarDivision::recip;
  bool clamps_block_scales = true;  // to [2^-9, 448] before rounding: 0.45 and later
};

}  // namespace nibble::formats
