// Owns the search for the scales and minima of blocks, over sixteen spans at a time.
#pragma once

#include "formats/gguf_types.h"
#include "passes/span_kernels.h"

namespace llmc {

/// As in Block. `d` and `dmin` are of blocks, the others of lanes; block b has the lanes from b · spans on.
struct BlockScales {
  Lanes d, dmin, scale, min;
};

/// Chooses them, and the batch's codes. What search_blocks does, with the spans in the batch's lanes.
BlockScales find_block_scales(const GgufTypeInfo& type, SpanBatch& batch, const SpanKernels& kernels);

}  // namespace llmc
