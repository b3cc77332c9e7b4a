// Owns the safetensors file format: checking and reading its bytes, and writing a file part by part.
// Format: https://github.com/huggingface/safetensors (8-byte header length, JSON header, data without holes).
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "formats/tensor_file.h"

namespace llmc {

struct NamedTensor {
  std::string name;
  TensorView tensor;
};

/// A parsed file. The tensors borrow the bytes that were parsed.
struct SafetensorsContent {
  std::vector<NamedTensor> tensors;  ///< by position in the file
  std::map<std::string, std::string> metadata;
};

/// Checks everything a header can lie about, then returns views into `bytes`. Throws Error(input) that lists every
/// problem with tensor, expected and found; `where` is the file's name.
SafetensorsContent parse_safetensors(std::span<const std::byte> bytes, const std::string& where);

/// Name, type and shape of a tensor to be written.
struct TensorLayout {
  std::string name;
  DType dtype = DType::u8;
  Shape shape;

  int64_t bytes() const;
};

/// Writes one file. The layouts come first and fix the header; then the data of each tensor, in any order.
/// Tensors lie in the file by element size (largest first) and name, so that every reader finds them aligned.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorLayout> layouts, const std::map<std::string, std::string>& metadata);
  void write(const std::string& name, std::span<const std::byte> bytes);
  /// Flushes. Throws Error(bug) when a tensor was never written.
  void close();

 private:
  TensorFile file_;
};

}  // namespace llmc
