// Owns the integer codecs of the compressed-tensors format (int-quantized, pack-quantized) and the format's description in config.json.
// Layout: https://github.com/vllm-project/compressed-tensors, release 0.19.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/codec.h"

namespace llmc {

/// int-quantized (8 bits, one int8 per weight), pack-quantized (fewer bits, in int32 words) and the float codecs.
std::span<const Codec> compressed_tensors_codecs();
const Codec* find_compressed_tensors_codec(std::string_view name);
/// The codec that a quantized tensor gets: by its grid and bits. Throws Error(bug) when the format cannot say it.
const Codec& get_compressed_tensors_codec(const QuantizedMatrix& matrix);

/// The parts of a static input, whatever the codec: "input_scale" [1] in the type of the weight's scales, and for linear
/// "input_zero_point" int8 [1]. Empty when the tensor has no static input.
std::vector<EncodedPart> encode_input_grid(const StoredTensor& tensor);
/// Takes them out of `parts` and sets the tensor's input grid. Throws Error(input) when they do not fit the scheme.
void decode_input_grid(StoredTensor& tensor, std::map<std::string, TensorView>& parts);

/// Whether the format has the grid: integers, E4M3, MXFP4, MXFP8 and NVFP4; not E5M2, NF4 and codebooks.
bool has_compressed_tensors_format(const Scheme& scheme);

enum class ModuleKind { linear, embedding };

/// A module and what its weight means.
struct ModuleScheme {
  std::string module;  ///< tensor name without ".weight"
  ModuleKind kind = ModuleKind::linear;
  Scheme scheme;
};

/// The `quantization_config` object for config.json. One scheme for linear modules only is said as targets ["Linear"]
/// with the `ignored` modules beside it; anything else names every module, since readers order patterns by spelling.
nlohmann::json make_quantization_config(const std::vector<ModuleScheme>& quantized, const std::vector<std::string>& ignored);

/// Reads one back: the scheme and codec of each of `modules` that a config group targets. Throws Error(input) for what
/// is not understood (output activations, other types, other formats).
struct ModuleEncoding {
  Scheme scheme;
  const Codec* codec = nullptr;
};
std::map<std::string, ModuleEncoding> read_quantization_config(const nlohmann::json& quantization_config, const std::vector<std::string>& modules, const std::string& where);

}  // namespace llmc
