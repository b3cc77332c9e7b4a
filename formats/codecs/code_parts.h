// Owns the stored parts that codes need beside themselves: scales, zero points and centroids, and outliers.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/codec.h"
#include "formats/quantized_matrix.h"

namespace llmc {

/// Whether the scales are themselves codes, on a grid whose scale is that of the whole tensor.
inline bool has_global_scale(const Scheme& scheme) { return scheme.scale == ScaleKind::e4m3; }

/// "scales", for linear schemes "zero_points" (a bit stream in the order of the scales), "global_scale" where the scheme has
/// one; or "centroids".
void add_scale_layout(const QuantizedMatrix& matrix, std::vector<TensorLayout>& layout);
void add_scale_parts(const QuantizedMatrix& matrix, std::vector<EncodedPart>& parts);

/// The same, but where it takes fewer bytes "scale_base" (the least pattern of bits of a scale, [1]) and "scale_steps" (a byte w,
/// then a bit stream of w bits for each scale: its pattern minus the base) in place of "scales".
void add_short_scale_parts(const QuantizedMatrix& matrix, std::vector<EncodedPart>& parts);

/// A matrix with scales and zero points, or centroids, read from the parts of either; its codes are still empty. It
/// allocates what the tensor's shape asks for: the caller bounds that first. Throws Error(input).
QuantizedMatrix read_scales(const StoredTensor& tensor, const EncodedData& data);

/// "outlier_gaps" (formats/gap_stream.h) and "outlier_values".
void add_outlier_layout(const Outliers& outliers, std::vector<TensorLayout>& layout);
void add_outlier_parts(const Outliers& outliers, std::vector<EncodedPart>& parts);
Outliers read_outliers(const StoredTensor& tensor, const EncodedData& data);

/// The code that means 0 in each span.
std::vector<int8_t> zero_codes(const QuantizedMatrix& matrix);
/// For each element of the matrix: 1 where its code is another than that, else 0.
std::vector<uint8_t> mark_nonzero_codes(const QuantizedMatrix& matrix);

}  // namespace llmc
