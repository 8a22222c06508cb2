# NIBBLE_CUDA=ON (preset cuda): the CUDA device, one program for Hopper (sm_90a) and Blackwell (sm_100a,
# sm_120a, sm_121a). Without nvcc it says so and builds without. For quick builds one architecture is
# enough: -DNIBBLE_CUDA_ARCHITECTURES=90a-real.
#
# Sets NIBBLE_WITH_CUDA. Whoever wants the device links nibble_device_cuda: the linker chooses between
# the device and device/cuda_absent.cc, no source asks.
option(NIBBLE_CUDA "Build the CUDA device (needs nvcc)" OFF)
set(NIBBLE_CUDA_ARCHITECTURES "90a-real;100a-real;120a-real;121a-real" CACHE STRING
    "CUDA architectures of the device")
set(NIBBLE_WITH_CUDA OFF)

if(NIBBLE_CUDA)
  include(CheckLanguage)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES ${NIBBLE_CUDA_ARCHITECTURES})
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit 12.4 REQUIRED)
    # CMake 3.25 knows no C++20 flag for this compiler; kernels keep to C++17.
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")
    if(CCACHE_PROGRAM)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
    endif()
    set(NIBBLE_WITH_CUDA ON)
  else()
    message(STATUS "CUDA device skipped: no nvcc")
  endif()
endif()
