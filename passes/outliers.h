// Owns keeping the largest weights of a tensor in 16 bits beside the quantized rest.
#pragma once

#include "core/tensor.h"
#include "formats/quantized_matrix.h"

namespace llmc {

/// Takes the ⌊share · count⌋ largest |x| out of `weights`, the first in memory among equals, and leaves what `dtype` (f16 or
/// bf16) could not hold of them: 0 for weights of that type. So whatever rounds the rest needs to know nothing of them.
Outliers take_outliers(Matrix& weights, double share, DType dtype);

/// The type that outliers of a weight have: its own 16-bit type, else bf16, which holds every magnitude.
DType outlier_dtype_for(DType weight);

/// About how many bits per weight they take: a float and a gap each.
double outlier_bits(double share);

}  // namespace llmc
