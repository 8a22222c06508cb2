# The helpers every CMakeLists.txt uses: one static library per folder, tests beside their code.

# nibble_library(name SOURCES ... DEPENDS ...): static library nibble_<name> with our warnings.
function(nibble_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(nibble_${name} STATIC ${ARG_SOURCES})
  nibble_warnings(nibble_${name})
  target_include_directories(nibble_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(nibble_${name} PUBLIC ${ARG_DEPENDS})
endfunction()

# nibble_test(name SOURCES ... DEPENDS ...): GoogleTest program nibble_<name>_test, run by ctest from
# the source directory.
function(nibble_test name)
  if(NOT NIBBLE_BUILD_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(nibble_${name}_test ${ARG_SOURCES})
  nibble_warnings(nibble_${name}_test)
  target_include_directories(nibble_${name}_test PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR})
  target_link_libraries(nibble_${name}_test PRIVATE ${ARG_DEPENDS} GTest::gtest_main)
  add_test(NAME ${name} COMMAND nibble_${name}_test WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
endfunction()

# nibble_fuzzer(name SOURCE DEPENDS ...): libFuzzer program fuzz_<name>.
function(nibble_fuzzer name source)
  add_executable(fuzz_${name} ${source})
  nibble_warnings(fuzz_${name})
  target_compile_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  target_link_libraries(fuzz_${name} PRIVATE ${ARGN})
endfunction()

function(nibble_warnings target)
  # nvcc takes no such flags; its host compiler gets a part of them.
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-Wconversion;-Werror>
    $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # g++ 12 reports overlapping copies inside std::string's operator+ (GCC bug 105651).
    target_compile_options(${target} PRIVATE -Wno-restrict)
  endif()
endfunction()
