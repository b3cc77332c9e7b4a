// Owns the search for blocks: which scales, minima and codes of a block type say a row of weights with the least squared error.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "passes/block_batch.h"

namespace llmc {

/// What was found for the first blocks of a batch.
void get_blocks(const GgufTypeInfo& type, const BlockBatch& batch, std::span<Block> blocks);

/// `importance` as weights of squared errors: their mean is 1 and none is quite 0, so that columns of which nothing is known are
/// rounded for their own sake. Ones if it is empty or all 0.
std::vector<float> error_weights(std::span<const float> importance, int64_t columns);

/// Throws Error(usage) naming `where` when the rows are not whole blocks or `importance` has another size, Error(input) with row
/// and column of a value that is not finite or too large.
void check_encodable(const GgufTypeInfo& type, ConstMatrixView weights, std::span<const float> importance, const std::string& where);

/// `weights` [rows, cols] as bytes of a type, row after row; `importance` [cols] weighs squared errors by the column, empty: all
/// alike. The same bytes for any number of threads and either search. Throws as check_encodable does.
std::vector<std::byte> encode_gguf(const GgufTypeInfo& type, ConstMatrixView weights, std::span<const float> importance, const std::string& where, SearchBatch search = search_batch);
/// … into gguf_bytes(type, rows · cols) bytes.
void encode_gguf(const GgufTypeInfo& type, ConstMatrixView weights, std::span<const float> importance, const std::string& where, std::span<std::byte> bytes, SearchBatch search = search_batch);

}  // namespace llmc
