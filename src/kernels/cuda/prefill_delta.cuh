// What the two kernels of the chunked delta rule share: chunks of 64 tokens and their packed form.
//
// Everything a chunk needs lies in the order in which the scan reads it: FP16 tiles of 64 tokens
// whose 16-byte pieces are exchanged by the low bits of the row (no bank is met twice by ldmatrix),
// moved as one bulk copy each.
#pragma once

#include "kernels/cuda/matrices.cuh"
#include "kernels/cuda/prefill.h"

namespace nibble::cuda {

constexpr int kChunkTokens = 64, kDeltaDim = 128;
constexpr int kKeyTileBytes = kChunkTokens * kDeltaDim * 2;  // keys, and queries
constexpr int kValueTileBytes = kChunkTokens * 64 * 2;  // 64 of a head's columns
constexpr int kTriangle = 10;  // 16 x 16 blocks on and below the diagonal
// Values and the state are multiplied by this before they are rounded to FP16, and the output
// divided: small ones stay above FP16's denormal range.
constexpr float kValueScale = 16.0f;

/// A lower triangular 64 x 64 matrix: blocks in rows, each as four 8 x 8 matrices in ldmatrix
/// order.
struct TriangleHalf {
  __half block[kTriangle][2][2][8][8];

  __device__ __forceinline__ __half& at(int i, int j) {
    const int row = i / 16, column = j / 16;
    return block[row * (row + 1) / 2 + column][i % 16 / 8][j % 16 / 8][i % 8][j % 8];
  }
};

/// Scalars and small matrices of a (chunk, value head); G: running sum of g inside the chunk.
struct ChunkTerms {
  TriangleHalf t_beta, p;
  float decay_k[kChunkTokens], decay_q[kChunkTokens];  // e^G; e^G / sqrt(128)
  float rest[kChunkTokens];  // e^(G_63 - G)
  float all;  // e^G_63
  float unused[31];
};
static_assert(sizeof(ChunkTerms) == 11136);

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
