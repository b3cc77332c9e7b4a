// Owns the search for blocks: which scales, minima and codes of a block type say a row of weights with the least squared error.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "formats/gguf_types.h"
#include "passes/span_kernels.h"

namespace llmc {

/// Blocks that are searched together, one span in each lane.
inline int64_t blocks_at_once(const GgufTypeInfo& type) { return type.spans() >= span_lanes ? 1 : span_lanes / type.spans(); }

/// For up to blocks_at_once(type) blocks: of those that the search tries, the one with the least Σ w (x − x̂)². Every span is
/// fitted on its own first: codes for a scale (and a minimum), and the least-squares scale for those codes, from several starts.
/// Then the block's d (and dmin) and the spans' integers are moved, in turns, to where the sum over the block is least.
/// `x` and `w` are whole blocks one after another.
void search_blocks(const GgufTypeInfo& type, std::span<const float> x, std::span<const float> w, const SpanKernels& kernels, std::span<Block> blocks);

/// `importance` as weights of squared errors: their mean is 1 and none is quite 0, so that columns of which nothing is known are
/// rounded for their own sake. Ones if it is empty or all 0.
std::vector<float> error_weights(std::span<const float> importance, int64_t columns);

/// Throws Error(usage) naming `where` when the rows are not whole blocks or `importance` has another size, Error(input) with row
/// and column of a value that is not finite or too large.
void check_encodable(const GgufTypeInfo& type, ConstMatrixView weights, std::span<const float> importance, const std::string& where);

/// `weights` [rows, cols] as bytes of a type, row after row; `importance` [cols] weighs squared errors by the column, empty: all
/// alike. The same bytes for any number of threads and any kernels. Throws as check_encodable does.
std::vector<std::byte> encode_gguf(const GgufTypeInfo& type, ConstMatrixView weights, std::span<const float> importance, const std::string& where, const SpanKernels& kernels = vector_span_kernels());

}  // namespace llmc
