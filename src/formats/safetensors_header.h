// The JSON part of a safetensors header: a streaming parser, private to safetensors_reader.
//
// A checkpoint of this family has up to 125,000 tensors, so no document tree is built. It checks
// what concerns one tensor; how tensors lie in the file is checked by the reader.
#pragma once

#include "base/problems.h"
#include "formats/safetensors_reader.h"

#include <string>
#include <string_view>

namespace nibble::formats {

/// A name as it may appear in a message: quoted, escaped, at most 200 bytes.
std::string quoted_name(std::string_view name);

/// Parses the JSON text. `data_bytes` is the size of the data section; tensor offsets in the result
/// count from the start of that section. Faults of single tensors go to `problems` and the tensor
/// is left out; JSON that cannot be read on is an Error.
Result<SafetensorsHeader> parse_header_json(std::string_view json, size_t data_bytes,
                                            Problems& problems);

}  // namespace nibble::formats
