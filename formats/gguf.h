// Owns reading GGUF files, version 2 and 3: everything in them checked, tensors as views of the bytes, shards joined.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "core/tensor.h"
#include "formats/gguf_metadata.h"
#include "formats/gguf_types.h"

namespace llmc {

constexpr uint64_t gguf_default_alignment = 32;
constexpr size_t gguf_most_dimensions = 4;  ///< GGML_MAX_DIMS
constexpr size_t gguf_longest_name = 63;    ///< bytes of a tensor's name: GGML_MAX_NAME − 1

struct GgufTensor {
  std::string name;
  const GgufTypeInfo* type = nullptr;
  Shape shape;                       ///< row-major: the last dimension is the file's first, along which blocks lie
  std::span<const std::byte> bytes;  ///< borrowed
};

/// A parsed file. The tensors borrow the bytes that were parsed.
struct GgufContent {
  uint32_t version = 0;
  uint64_t alignment = gguf_default_alignment;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  ///< by position in the file
};

/// Checks everything a file can lie about, then returns views into `bytes`. Throws Error(input) that names key or tensor,
/// expected and found; `where` is the file's name. A shard of a split file is parsed on its own.
GgufContent parse_gguf(std::span<const std::byte> bytes, const std::string& where);

/// Bytes of a tensor of that type. Throws Error(input) naming `where` when a row is no whole number of blocks or the size
/// overflows.
uint64_t gguf_tensor_bytes(const GgufTypeInfo& type, const Shape& shape, const std::string& where);

/// A file and the other shards of a split one (NAME-00001-of-0000N.gguf, of which the first is named). The tensors borrow the maps.
struct GgufFiles {
  std::vector<MappedFile> files;
  GgufMetadata metadata;  ///< of the first shard, without the keys that are about the split
  std::vector<GgufTensor> tensors;
};

/// How the name of a shard ends: that of number 0 of 3 in -00001-of-00003.gguf.
std::string gguf_shard_ending(int64_t number, int64_t count);
constexpr int64_t gguf_most_shards = 65535;  ///< the format has 16 bits for it

/// Throws Error(input), also for shards that are missing or disagree.
GgufFiles open_gguf(const std::filesystem::path& path);

}  // namespace llmc
