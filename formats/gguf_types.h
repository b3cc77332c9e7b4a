// Owns the tensor types of GGUF files: one row per type with its id, sizes, grid and layout, and what bytes of a type mean.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/dtype.h"
#include "formats/gguf/block.h"

namespace llmc {

enum class GgufType : uint8_t { f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, tq1_0, tq2_0, mxfp4, nvfp4 };

struct GgufTypeInfo {
  GgufType type;
  std::string_view name;              ///< as llama.cpp's flags spell it: "Q4_K"
  uint32_t id = 0;                    ///< ggml's number, which files hold
  int64_t block = 1;                  ///< weights that are stored together; a row is whole blocks
  int64_t bytes = 0;                  ///< of a block
  std::optional<DType> dtype = std::nullopt;  ///< of the types that hold plain floats; the rest is for the others
  BlockGrid grid = {};
  void (*unpack)(const uint8_t* bytes, Block& block) = nullptr;
  void (*pack)(const Block& block, uint8_t* bytes) = nullptr;  ///< pack(unpack(bytes)) says the same; codes and scales within the grid

  double bits_per_weight() const { return 8.0 * static_cast<double>(bytes) / static_cast<double>(block); }
  int64_t spans() const { return grid.span == 0 ? 0 : block / grid.span; }
};

/// All types, in the order of the enum.
std::span<const GgufTypeInfo> gguf_type_list();
const GgufTypeInfo& get_info(GgufType type);
/// nullptr for a type that llmc does not read.
const GgufTypeInfo* find_gguf_type(uint32_t id);
/// Capitals and small letters are the same.
const GgufTypeInfo* find_gguf_type(std::string_view name);
/// Throws Error(input) that says after `where` which type the id is, known to ggml or not.
const GgufTypeInfo& get_gguf_type(uint32_t id, const std::string& where);
/// Throws Error(usage) that says after `where` what is known.
const GgufTypeInfo& get_gguf_type(const std::string& name, const std::string& where);
/// "F32, F16, …"
std::string gguf_type_names();

/// Bytes of `weights` values, a whole number of blocks.
int64_t gguf_bytes(const GgufTypeInfo& type, int64_t weights);

/// What whole blocks mean, in f32, each product and sum rounded once as ggml does. `values` is a whole number of blocks.
void decode_gguf(const GgufTypeInfo& type, std::span<const std::byte> bytes, std::span<float> values);
/// What one block means.
void evaluate(const BlockGrid& grid, const Block& block, std::span<float> values);

}  // namespace llmc
