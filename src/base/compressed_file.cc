#include "base/compressed_file.h"

#include "base/file.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <memory>

namespace nibble {
namespace {

constexpr size_t kPiece = 1 << 16;
constexpr std::string_view kGzip = ".gz";
constexpr std::string_view kZstd = ".zst";

Error damaged(const std::string& path) {
  return Error{ErrorCode::corrupt, path + ": damaged or cut off"};
}

// Adds unpacked bytes while they fit.
Result<void> keep(std::string& out, std::string_view piece, size_t max_bytes,
                  const std::string& path) {
  if (piece.size() > max_bytes - out.size()) {
    return Error{ErrorCode::exhausted,
                 path + ": unpacks to more than " + std::to_string(max_bytes) + " bytes"};
  }
  out += piece;
  return {};
}

// One member after the other: gzip files may be joined.
Result<std::string> unpack_gzip(std::string packed, size_t max_bytes, const std::string& path) {
  z_stream stream{};
  if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) {
    return Error{ErrorCode::exhausted, path + ": no memory to unpack it"};
  }
  const std::unique_ptr<z_stream, int (*)(z_stream*)> owner(&stream, inflateEnd);
  std::string out;
  char piece[kPiece];
  size_t offset = 0;  // avail_in is 32 bits wide: large files go in by parts
  int state = Z_OK;
  while (true) {
    if (stream.avail_in == 0 && offset < packed.size()) {
      const size_t part = std::min(packed.size() - offset, size_t{1} << 30);
      stream.next_in = reinterpret_cast<Bytef*>(packed.data() + offset);
      stream.avail_in = static_cast<uInt>(part);
      offset += part;
    }
    if (state == Z_STREAM_END && stream.avail_in == 0) return out;
    if (state == Z_STREAM_END && inflateReset(&stream) != Z_OK) return damaged(path);
    stream.next_out = reinterpret_cast<Bytef*>(piece);
    stream.avail_out = kPiece;
    state = inflate(&stream, Z_NO_FLUSH);
    if (state != Z_OK && state != Z_STREAM_END) return damaged(path);
    NIBBLE_RETURN_IF_ERROR(keep(out, {piece, kPiece - stream.avail_out}, max_bytes, path));
  }
}

Result<std::string> unpack_zstd(const std::string& packed, size_t max_bytes,
                                const std::string& path) {
  const std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream(ZSTD_createDStream(),
                                                                        ZSTD_freeDStream);
  if (stream == nullptr) return Error{ErrorCode::exhausted, path + ": no memory to unpack it"};
  std::string out;
  char piece[kPiece];
  ZSTD_inBuffer input{packed.data(), packed.size(), 0};
  size_t wanted = 1;  // 0 at the end of a frame
  while (true) {
    ZSTD_outBuffer output{piece, kPiece, 0};
    const size_t before = input.pos;
    wanted = ZSTD_decompressStream(stream.get(), &output, &input);
    if (ZSTD_isError(wanted) != 0) return damaged(path);
    NIBBLE_RETURN_IF_ERROR(keep(out, {piece, output.pos}, max_bytes, path));
    if (wanted == 0 && input.pos == input.size) return out;
    if (input.pos == before && output.pos == 0) return damaged(path);
  }
}

}  // namespace

Result<std::string> read_text_file(const std::string& path, size_t max_bytes) {
  NIBBLE_ASSIGN_OR_RETURN(std::string bytes, read_file(path));
  if (path.ends_with(kGzip)) return unpack_gzip(std::move(bytes), max_bytes, path);
  if (path.ends_with(kZstd)) return unpack_zstd(bytes, max_bytes, path);
  return bytes;
}

std::string_view uncompressed_name(std::string_view path) {
  for (const std::string_view ending : {kGzip, kZstd}) {
    if (path.ends_with(ending)) return path.substr(0, path.size() - ending.size());
  }
  return path;
}

}  // namespace nibble
