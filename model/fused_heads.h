// Owns taking apart what one matrix makes of queries, keys and values, and putting it together again.
#pragma once

#include "core/tensor.h"
#include "model/config.h"

namespace llmc {

/// From rows [T, query_width + 2 · kv_width] in the order of the config to q [T, query_width], k and v [T, kv_width].
void split_fused(const ModelConfig& config, ConstMatrixView fused, MatrixView q, MatrixView k, MatrixView v);
/// The way back.
void join_fused(const ModelConfig& config, ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, MatrixView fused);

}  // namespace llmc
