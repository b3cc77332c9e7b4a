// Owns the integer codecs of the compressed-tensors format (int-quantized, pack-quantized), the list of all its codecs, and static inputs.
// Layout: https://github.com/vllm-project/compressed-tensors, release 0.19.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/codec.h"

namespace llmc {

/// int-quantized (8 bits, one int8 per weight), pack-quantized (fewer bits, in int32 words) and the float codecs.
std::span<const Codec> compressed_tensors_codecs();
const Codec* find_compressed_tensors_codec(std::string_view name);
/// The codec of codes on the scheme's grid: integers, E4M3, MXFP4, MXFP8 and NVFP4; nullptr for E5M2, NF4 and codebooks, which the format has not.
const Codec* find_compressed_tensors_codec(const Scheme& scheme);

/// The parts of a static input, whatever the codec: "input_scale" [1] in the type of the weight's scales, and for linear
/// "input_zero_point" int8 [1]. Empty when the tensor has no static input.
std::vector<EncodedPart> encode_input_grid(const StoredTensor& tensor);
/// Refuses parts that neither the tensor's codec nor its scheme has, with Error(input) that names one. weight_shape may be there
/// always, and zero points that are all zero, which some writers store for a symmetric scheme, are taken away.
void check_parts(const StoredTensor& tensor, std::map<std::string, TensorView>& parts);
/// Takes them out of `parts` and sets the tensor's input grid. Throws Error(input) when they do not fit the scheme.
void decode_input_grid(StoredTensor& tensor, std::map<std::string, TensorView>& parts);

}  // namespace llmc
