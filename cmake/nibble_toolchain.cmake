# Compiler-wide settings: warnings, sanitizers, ccache and mold where they are installed.
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1")

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()
find_program(MOLD_PROGRAM mold)
if(MOLD_PROGRAM)
  add_link_options(-fuse-ld=mold)
endif()

# Contraction is off everywhere: where an FMA is wanted it is written (docs/NUMERICS.md).
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)

if(NIBBLE_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    # clang 14 cannot compile coroutines under -fsanitize=function.
    add_compile_options(-fno-sanitize=function)
  endif()
elseif(NIBBLE_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread)
  add_link_options(-fsanitize=thread)
elseif(NIBBLE_SANITIZE)
  message(FATAL_ERROR "NIBBLE_SANITIZE is '${NIBBLE_SANITIZE}', expected address, thread or empty")
endif()
