// Owns GGUF's tensor types as codecs: blocks that are kept as they are, decoded where they are needed, and never chosen to store
// floats exactly.
#pragma once

#include <span>

#include "formats/codec.h"
#include "formats/gguf.h"

namespace llmc {

/// One row per type, in the order of gguf_type_list(). The one part, "blocks" (u8), holds the tensor's rows one behind the
/// other, the logical matrix always [out, in].
std::span<const Codec> gguf_codecs();

/// The tensor as it lies in the file: floats borrowed, blocks encoded (of dtype f32).
StoredTensor make_gguf_tensor(const GgufTensor& tensor);

/// Makes the tensor hold blocks of a type, the rows of the logical matrix one behind the other. Its dtype is f32 from then on.
void set_gguf_blocks(StoredTensor& tensor, const GgufTypeInfo& type, std::vector<std::byte> blocks);
/// The rows of a tensor that holds blocks, in the order of the logical matrix.
std::vector<std::byte> read_gguf_blocks(const StoredTensor& tensor);

/// Says that the tensor's rows are stored in another order (see EncodedData), or that its shape and dtype in a checkpoint
/// directory are those of the transposed matrix [in, out].
void set_row_order(StoredTensor& tensor, std::vector<int32_t> order);
void set_transposed(StoredTensor& tensor);

/// The type of a tensor that a GGUF file holds; nullptr for what has another form by now.
const GgufTypeInfo* find_gguf_type_of(const StoredTensor& tensor);

}  // namespace llmc
