// Owns llmc's packed container: which codec and scheme each tensor has, said in the safetensors metadata.
// docs/packed-format.md is the documentation of the layout.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "formats/codec.h"
#include "formats/stored_tensor.h"

namespace llmc {

constexpr int packed_container_version = 1;

/// A tensor and the codec that was chosen for it.
struct PackedChoice {
  const StoredTensor* tensor = nullptr;
  const Codec* codec = nullptr;
};

/// The safetensors metadata that makes the file readable.
std::map<std::string, std::string> make_packed_metadata(const std::vector<PackedChoice>& choices);

/// The `quantization_config` for config.json. It names no quant_method on purpose: transformers 5 then raises an error,
/// where for a method that it does not know it warns and goes on with random weights.
nlohmann::json make_packed_quantization_config();

/// Name in the file of a tensor's part: a dense tensor keeps its own name.
std::string packed_part_name(const std::string& tensor, const Codec& codec, const std::string& part);

/// Takes the parts out of `tensors` and returns what they are parts of. Throws Error(input).
std::vector<StoredTensor> group_packed_parts(const std::map<std::string, std::string>& metadata, std::map<std::string, TensorView>& tensors, const std::string& where);

}  // namespace llmc
