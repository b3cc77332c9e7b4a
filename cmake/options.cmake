# One target that carries the compiler flags of every llmc target.
add_library(llmc_options INTERFACE)
add_library(llmc::options ALIAS llmc_options)
target_compile_features(llmc_options INTERFACE cxx_std_20)
target_compile_options(llmc_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wno-missing-field-initializers -fno-math-errno -ffp-contract=off)
target_compile_definitions(llmc_options INTERFACE EIGEN_DONT_PARALLELIZE)  # threads are core/parallel's alone
target_include_directories(llmc_options INTERFACE ${CMAKE_SOURCE_DIR})
set(CMAKE_CXX_EXTENSIONS OFF)
if(CMAKE_UNITY_BUILD)
  target_compile_options(llmc_options INTERFACE -Wno-shadow -Wno-subobject-linkage)  # of sources that were never compiled as one
endif()

option(LLMC_WERROR "Warnings are errors" OFF)
if(LLMC_WERROR)
  target_compile_options(llmc_options INTERFACE -Werror)
endif()

set(LLMC_SANITIZE "" CACHE STRING "Sanitizers, such as address,undefined or thread")
if(LLMC_SANITIZE)
  target_compile_options(llmc_options INTERFACE -fsanitize=${LLMC_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(llmc_options INTERFACE -fsanitize=${LLMC_SANITIZE})
endif()
