// Owns a checkpoint, a directory or a GGUF file: its files mapped and checked, its tensors in whatever container they are stored.
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
#include "formats/gguf_metadata.h"
#include "formats/stored_tensor.h"

namespace llmc {

enum class Container {
  dense,               ///< an ordinary Hugging Face checkpoint
  compressed_tensors,  ///< quantization_config of compressed-tensors
  llmc_packed,         ///< llmc's own, docs/packed-format.md
  gguf,                ///< one file, or several shards, that llama.cpp runs
};
std::string_view to_string(Container container);

/// One row per container, for `llmc list`.
struct ContainerInfo {
  Container container;
  std::string_view name;
  std::string_view summary;
};
std::span<const ContainerInfo> container_list();

/// An opened checkpoint. The tensors borrow the mapped files.
struct Checkpoint {
  std::filesystem::path directory;   ///< or the GGUF file
  nlohmann::json config;             ///< config.json; of a GGUF file empty until the model gives its keys their meaning
  std::optional<GgufMetadata> gguf;  ///< of a GGUF file
  Container container = Container::dense;
  std::vector<MappedFile> files;     ///< the safetensors, PyTorch or GGUF files
  std::vector<MappedFile> scratch_files;  ///< weights that a run changed and put on disk for the time being
  std::vector<StoredTensor> tensors;  ///< by name
  std::map<std::string, std::string> rewritten_files;  ///< small files of the directory (tokenizer.json, …) that a run changed: name and content
  std::vector<std::string> notices;  ///< what a user should know about how the directory was read

  /// What errors about the config name: config.json, or the GGUF file.
  std::string config_name() const;
  /// The content of a small file, as a run left it; nothing when there is none. Of a GGUF file: what its keys say, in the
  /// words of such a file; throws Error(input) when they say what llmc does not know.
  std::optional<std::string> find_file(const std::string& name) const;
  /// Bytes of the weight files on disk.
  uint64_t weight_bytes() const;
  /// Of all files: what was read so far need not stay in memory.
  void release_pages() const;
  /// The same, where the tensor that was just read is so large that many would fill the memory before a step is over.
  void release_pages_after(const StoredTensor& tensor) const;
};

/// Opens and validates a directory: config.json, and model.safetensors or pytorch_model.bin, whole or as shards with an index; or a
/// GGUF file, whose tensors keep their names there. Throws Error(input) that lists every problem with file, tensor, expected and found.
Checkpoint open_checkpoint(const std::filesystem::path& directory);

}  // namespace llmc
