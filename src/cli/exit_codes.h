// The program's exit codes (spec serving.md 1.1) and how errors map to them.
#pragma once

#include "base/result.h"

namespace nibble::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitModelRefused = 3;
inline constexpr int kExitNoMemory = 4;
inline constexpr int kExitNetwork = 5;
inline constexpr int kExitInterrupted = 130;

constexpr int exit_code_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return kExitUsage;
    case ErrorCode::not_found:
    case ErrorCode::corrupt:
    case ErrorCode::unsupported:
      return kExitModelRefused;
    case ErrorCode::exhausted:
      return kExitNoMemory;
    case ErrorCode::network:
      return kExitNetwork;
    case ErrorCode::cancelled:
      return kExitInterrupted;
    case ErrorCode::io:
    case ErrorCode::permission:
    case ErrorCode::internal:
      return kExitFailure;
  }
  return kExitFailure;
}

}  // namespace nibble::cli
