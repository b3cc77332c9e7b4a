// Owns llama.cpp's importance matrices: files that say how large the inputs of each linear layer are, column by column.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace llmc {

/// The input of one linear layer.
struct ImatrixEntry {
  std::vector<float> sums;  ///< [in]: Σ x² of each column
  int64_t count = 0;        ///< that the sums are over: tokens; in old files calls, by which they divide too. One that f32 can hold

  /// Mean of x², per column, in f32 as llama-quantize computes it.
  std::vector<float> mean_square() const;
  bool operator==(const ImatrixEntry&) const = default;
};

struct Imatrix {
  std::map<std::string, ImatrixEntry> entries;  ///< by the GGUF name of the weight
  std::vector<std::string> datasets;            ///< names of the texts
  int64_t chunk_count = 0;
  int64_t chunk_size = 0;                       ///< tokens; old files do not say: 0

  bool operator==(const Imatrix&) const = default;
};

/// Of the GGUF kind (general.type imatrix; tensors NAME.in_sum2 and NAME.counts) or the older .dat. Checks everything that a file
/// can lie about: throws Error(input) that names entry, expected and found; `where` is the file's name.
Imatrix parse_imatrix(std::span<const std::byte> bytes, const std::string& where);

/// Writes the GGUF kind, as llama-imatrix does, and compares what is then on disk with what was meant. Throws Error(output).
void write_imatrix(const std::filesystem::path& file, const Imatrix& imatrix);

}  // namespace llmc
