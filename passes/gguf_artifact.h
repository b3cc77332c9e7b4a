// Owns writing a model as a GGUF file that llama.cpp runs: which type each tensor gets, the keys, the bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/run_context.h"
#include "formats/gguf_writer.h"
#include "formats/weights_writer.h"
#include "model/model.h"
#include "passes/artifact.h"
#include "passes/gguf_options.h"

namespace llmc {

/// Every tensor of the model by its GGUF name, in the order of Model::tensors(), with the type that it is to have; behind them
/// the factors of rotary frequencies of a model that has any.
struct GgufPlan {
  std::vector<GgufLayout> layouts;
  std::vector<size_t> shards;  ///< how many of them each file has, one behind the other
  std::vector<std::string> notes;  ///< what llama.cpp does otherwise, and tensors whose rows forbid the mix's type
};
/// Files have at most `shard_bytes` of tensors, or a single one; without there is one file. Throws Error(usage) for a type that is not known or that a tensor's rows do not fit, when the model holds codes, or for a model
/// that llama.cpp does not run.
GgufPlan plan_gguf(const Model& model, const GgufOptions& options, std::optional<uint64_t> shard_bytes = {});

/// Writes the files, as many as the plan has shards, and compares what is then on disk with what was meant. Says how each tensor was stored. The same model
/// gives the same bytes. Throws Error(input) naming a tensor with a value that its type cannot hold, and Error(output).
std::vector<StoredAs> write_gguf(const std::vector<std::filesystem::path>& files, const Model& model, const GgufOptions& options, const GgufPlan& plan, const Provenance& provenance, const RunContext& context);

}  // namespace llmc
