// Owns NumPy's file format for one array. Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "core/tensor.h"

namespace llmc {

/// Checks a .npy file and returns a view of its array. Read are little endian numbers in C order, of the types that
/// llmc knows. Throws Error(input) naming `where`, what was expected and what was found.
TensorView parse_npy(std::span<const std::byte> bytes, const std::string& where);

/// The bytes of a .npy file (version 1.0) of f32 or i32 values in C order, as many as the shape says.
std::string encode_npy(DType dtype, std::span<const std::byte> values, const Shape& shape);

}  // namespace llmc
