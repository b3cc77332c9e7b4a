// Owns writing a model's tensors in a chosen container, into one safetensors file or into shards with an index.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/run_context.h"
#include "formats/checkpoint.h"
#include "formats/codecs/compressed_tensors_config.h"
#include "formats/stored_tensor.h"

namespace llmc {

/// How a tensor was stored.
struct StoredAs {
  std::string name;
  std::string_view codec;
  uint64_t bytes = 0;
  std::vector<std::pair<std::string_view, uint64_t>> candidates;  ///< every codec that could have stored it, when there was a choice
};

/// Why a tensor cannot be written as compressed-tensors so that transformers loads it, or "".
std::string reason_against_compressed_tensors(const StoredTensor& tensor, ModuleKind kind);

/// A module that shares its weight with `source` (a tied head): compressed-tensors wants its scales repeated.
struct TiedAlias {
  std::string module;
  std::string source;  ///< tensor name
};

/// Writes the tensors to `file`, or, where they take more than `shard_bytes`, to shards of that many bytes of tensors at most: for
/// model.safetensors these are model-00001-of-0000N.safetensors and so on, in the tensors' order, and model.safetensors.index.json,
/// as Hugging Face names them. A tensor's parts stay together; one that alone takes more gets a shard of its own. The description
/// of a packed container lies in the first shard. For Container::dense every quantized tensor is written as its dequantized f32 values.
/// Tensors in encoded form are decoded one at a time. Throws Error(output).
std::vector<StoredAs> write_weights(const std::filesystem::path& file, Container container, std::span<const StoredTensor* const> tensors, const std::vector<TiedAlias>& aliases, std::optional<uint64_t> shard_bytes, const RunContext& context);

}  // namespace llmc
