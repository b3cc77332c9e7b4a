// Owns the artifact: a directory with the compressed weights, the files carried along, and where it all came from.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/run_context.h"
#include "formats/weights_writer.h"
#include "model/model.h"
#include "passes/recipe.h"

namespace llmc {

/// Which container a format means for a model, with the reasons where `automatic` fell back.
struct ContainerChoice {
  Container container = Container::dense;
  std::vector<std::string> reasons;
};
/// Throws Error(usage) with every reason when Format::huggingface cannot say it.
ContainerChoice choose_container(Format format, const Model& model);

/// Provenance: what llmc.json records.
struct Provenance {
  std::string command;        ///< "quantize", "export", …
  const Recipe* recipe = nullptr;
  std::vector<std::pair<std::string, std::string>> source_hashes;  ///< file name and SHA-256 of what was read
};
std::vector<std::pair<std::string, std::string>> hash_sources(const Checkpoint& checkpoint, const RunContext& context);

/// Fills `directory`: model.safetensors or its shards (see write_weights), config.json with the description of the container, tokenizer and other small
/// files of the source, recipe.yaml, llmc.json. Says how each tensor was stored. The same model gives the same bytes.
std::vector<StoredAs> write_artifact(const std::filesystem::path& directory, Container container, const Model& model, const Provenance& provenance, std::optional<uint64_t> shard_bytes, const RunContext& context);

/// Compares every tensor with what was read back from disk, codes and scales exactly, floats as rounded to the stored type. Throws Error(output) naming the first
/// that differs.
void check_reopened(const Model& written, const Model& reopened, Container container);

/// Bytes the weight file would have with every float tensor written out.
uint64_t dense_weight_bytes(const Model& model);

}  // namespace llmc
