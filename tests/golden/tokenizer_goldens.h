// The tokenizer families (goldens: encode.jsonl, stream.jsonl).
#pragma once

#include "tests/golden/report.h"

#include <string>

namespace nibble::golden {

/// Runs every case of a tokenizer*/ folder: ids with and without added tokens, pieces, decoded text
/// with and without special tokens, streamed increments. The tokenizer is the folder's own
/// tokenizer.json, else `tokenizer_file`, else the family is skipped. Returns true when nothing
/// failed.
bool run_tokenizer_family(const std::string& folder, const std::string& tokenizer_file,
                          Report& report);

}  // namespace nibble::golden
