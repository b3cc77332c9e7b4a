// Owns the float codecs of the compressed-tensors format: float-quantized, mxfp8-quantized, mxfp4- and nvfp4-pack-quantized.
// Layout: https://github.com/vllm-project/compressed-tensors, release 0.19.
#pragma once

#include <span>

#include "formats/codec.h"

namespace llmc {

/// Of a part that has one value per scale: [1] for a tensor, [rows, 1] for channels, [rows, groups] for groups.
Shape compressed_tensors_scale_shape(const QuantizedMatrix& matrix);

std::span<const Codec> compressed_tensors_float_codecs();
/// The codec of a float grid; nullptr where the format has none.
const Codec* find_compressed_tensors_float_codec(const Scheme& scheme);

}  // namespace llmc
