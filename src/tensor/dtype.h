// Element types of tensors in memory and in files.
#pragma once

#include <cstddef>

namespace nibble {

/// The last group appears in files only; no kernel reads it.
enum class DType {
  f32,
  bf16,
  f8_e4m3,
  u8,
  i32,
  i64,
  f16,
  f64,
  f8_e5m2,
  i8,
  i16,
  u16,
  u32,
  u64,
  boolean
};

/// Bytes of one element.
constexpr size_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::f8_e4m3:
    case DType::f8_e5m2:
    case DType::u8:
    case DType::i8:
    case DType::boolean:
      return 1;
    case DType::bf16:
    case DType::f16:
    case DType::i16:
    case DType::u16:
      return 2;
    case DType::f32:
    case DType::i32:
    case DType::u32:
      return 4;
    case DType::i64:
    case DType::u64:
    case DType::f64:
      return 8;
  }
  return 0;
}

/// The safetensors spelling: "F32", "BF16", "F8_E4M3", ...
const char* dtype_name(DType dtype);

}  // namespace nibble
