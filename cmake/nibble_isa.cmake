# nibble_isa_source(file level): compiles one kernel file for one instruction set level.
#
# The only place where machine flags are set. Such a file may include nothing but plain argument structs
# and <immintrin.h>; tools/check_isa_symbols holds the objects to it.
function(nibble_isa_source file level)
  if(level STREQUAL "scalar")
    set(flags "")
  elseif(level STREQUAL "avx2")
    set(flags "-mavx2;-mfma;-mf16c;-mbmi2")
  elseif(level STREQUAL "avx512")
    set(flags "-mavx2;-mfma;-mf16c;-mbmi2;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl")
  elseif(level STREQUAL "avx512_dot")
    set(flags "-mavx2;-mfma;-mf16c;-mbmi2;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vnni;-mavx512bf16")
  else()
    message(FATAL_ERROR "nibble_isa_source: unknown level '${level}'")
  endif()
  # Kernels are noexcept and throw nothing; without exceptions no object refers to the unwinder's
  # weak personality symbol.
  list(APPEND flags -fno-exceptions)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND level MATCHES "^avx512")
    # g++ 12 calls the undefined operand inside its own AVX-512 intrinsics uninitialized. The same
    # kernel text is checked at the other levels.
    list(APPEND flags -Wno-uninitialized -Wno-maybe-uninitialized)
  endif()
  set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${flags}")
endfunction()
