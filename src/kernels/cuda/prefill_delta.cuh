// What the two kernels of the chunked delta rule share: chunks of 64 tokens and their packed form.
//
// Everything a chunk needs lies in the order in which the scan reads it: FP16 tiles of 64 rows x 64
// columns in wgmma's swizzle, moved as bulk copies.
#pragma once

#include "kernels/cuda/matrices.cuh"
#include "kernels/cuda/prefill.h"

namespace nibble::cuda {

constexpr int kChunkTokens = 64, kDeltaDim = 128;
constexpr int kTileBytes = kChunkTokens * 64 * 2;  // 64 columns of 64 tokens
constexpr int kRowTiles = 2;  // of 128 keys, queries or values
constexpr int kTriangle = 10;  // 16 x 16 blocks on and below the diagonal
// Values and the state are multiplied by this before they are rounded to FP16, and the output
// divided: small ones stay above FP16's denormal range.
constexpr float kValueScale = 16.0f;

/// Byte offset of the 16-byte piece of a row of 128 columns: two tiles side by side, in wgmma's
/// 128-byte swizzle.
__device__ __forceinline__ int tile_offset(int row, int piece) {
  return piece / 8 * kTileBytes + row * 128 + (((piece ^ row) & 7) << 4);
}

/// Matrices and scalars of a (chunk, value head); G: running sum of g inside the chunk. The
/// matrices are tiles (row i, column j), zero above the diagonal.
struct ChunkTerms {
  uint8_t t_beta[kTileBytes], p[kTileBytes];
  float decay_k[kChunkTokens], decay_q[kChunkTokens];  // e^G; e^G / sqrt(128)
  float rest[kChunkTokens];  // e^(G_63 - G)
  float all;  // e^G_63
  float unused[63];
};
static_assert(sizeof(ChunkTerms) == 2 * kTileBytes + 1024);

/// The scratch: per (chunk, key head) keys and queries, per (chunk, value head) two value tiles and
/// the terms.
struct DeltaScratch {
  uint8_t *rows, *values;
  ChunkTerms* terms;
};

/// Chunks of sequence s begin here in the list of all chunks; enough for any alignment.
__device__ __forceinline__ int first_chunk(const Sequence& s, int sequence) {
  return s.first_row / kChunkTokens + 2 * sequence;
}
/// Row of the sequence at which its first chunk begins: chunks lie on multiples of 64 tokens.
__device__ __forceinline__ int first_place(const Sequence& s) {
  return -((s.kv_len - s.q_len) % kChunkTokens);
}

}  // namespace nibble::cuda
