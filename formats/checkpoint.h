// Owns a checkpoint directory: its files mapped and checked, its tensors in whatever container they are stored.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/mapped_file.h"
#include "core/run_context.h"
#include "formats/stored_tensor.h"

namespace llmc {

enum class Container {
  dense,               ///< an ordinary Hugging Face checkpoint
  compressed_tensors,  ///< quantization_config of compressed-tensors
  llmc_packed,         ///< llmc's own, docs/packed-format.md
};
std::string_view to_string(Container container);

/// One row per container, for `llmc list`.
struct ContainerInfo {
  Container container;
  std::string_view name;
  std::string_view summary;
};
std::span<const ContainerInfo> container_list();

/// An opened checkpoint directory. The tensors borrow the mapped files.
struct Checkpoint {
  std::filesystem::path directory;
  nlohmann::json config;             ///< config.json
  Container container = Container::dense;
  std::vector<MappedFile> files;     ///< the safetensors files
  std::vector<MappedFile> scratch_files;  ///< weights that a run changed and put on disk for the time being
  std::vector<StoredTensor> tensors;  ///< by name
  std::map<std::string, std::string> rewritten_files;  ///< small files of the directory (tokenizer.json, …) that a run changed: name and content
  std::vector<std::string> notices;  ///< what a user should know about how the directory was read

  /// The content of a small file, as a run left it; nothing when there is none.
  std::optional<std::string> find_file(const std::string& name) const;
  /// Bytes of the weight files on disk.
  uint64_t weight_bytes() const;
  /// Of all files: what was read so far need not stay in memory.
  void release_pages() const;
};

/// Opens and validates a directory: config.json, model.safetensors or model.safetensors.index.json with its shards.
/// Throws Error(input) that lists every problem with file, tensor, expected and found.
Checkpoint open_checkpoint(const std::filesystem::path& directory);

}  // namespace llmc
