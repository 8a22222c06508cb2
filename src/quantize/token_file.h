// Calibration sequences given as token ids: a JSON array of arrays of numbers.
#pragma once

#include "base/result.h"

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::quantize {

/// Token ids, one vector per sequence. Empty sequences and a file without any are refused
/// (invalid_argument); ids are checked against the vocabulary later, by calibrate().
Result<std::vector<std::vector<int32_t>>> read_token_file(const std::string& path);

}  // namespace nibble::quantize
