// Owns writing a GGUF file (version 3): the header first, then the tensors in any order.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "formats/gguf.h"
#include "formats/tensor_file.h"

namespace llmc {

/// Name, type and shape of a tensor to be written.
struct GgufLayout {
  std::string name;
  const GgufTypeInfo* type = nullptr;
  Shape shape;  ///< row-major, as GgufTensor has it

  uint64_t bytes() const { return gguf_tensor_bytes(*type, shape, "tensor " + name); }
};

/// Bytes of the file that a GgufWriter with these would write.
uint64_t gguf_file_bytes(const GgufMetadata& metadata, const std::vector<GgufLayout>& layouts);

/// Tensors lie in the file in the order of the layouts, each at a multiple of what general.alignment says.
class GgufWriter {
 public:
  /// Throws Error(input) when a row is no whole number of blocks, Error(output), and Error(bug) for a name the format cannot hold.
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata, const std::vector<GgufLayout>& layouts);
  void write(const std::string& name, std::span<const std::byte> bytes);
  /// Flushes. Throws Error(bug) when a tensor was never written.
  void close();

 private:
  TensorFile file_;
  uint64_t alignment_;
};

}  // namespace llmc
