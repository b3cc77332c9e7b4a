// Owns the weight files of a Hugging Face directory: which are there, safetensors or PyTorch's, whole or in shards, and the
// tensors in them.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "core/tensor.h"

namespace llmc {

constexpr const char* weights_file_name = "model.safetensors";
constexpr const char* weights_index_name = "model.safetensors.index.json";

/// The tensors borrow the mapped files, or `copies`: by name, what PyTorch saved in another order than row by row.
struct WeightFiles {
  std::vector<MappedFile> files;
  std::map<std::string, std::vector<std::byte>> copies;
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;  ///< of the first safetensors file that has any
  std::vector<std::string> notices;             ///< what a user should know about the choice of files
};

/// Where several kinds are there, the first that transformers would read. A shard is a plain file name in the directory (which
/// may be a link, as in the hub's cache), and index and shards agree on every tensor. Throws Error(input) that lists every
/// problem.
WeightFiles open_weight_files(const std::filesystem::path& directory);

}  // namespace llmc
