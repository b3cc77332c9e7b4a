#include "formats/gguf_types.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cctype>

#include "core/error.h"
#include "formats/gguf/layouts.h"

namespace llmc {
namespace {

template <int low, int high>
constexpr auto integers = [] {
  std::array<int8_t, static_cast<size_t>(high - low + 1)> levels{};
  for (int i = low; i <= high; ++i) levels[static_cast<size_t>(i - low)] = static_cast<int8_t>(i);
  return levels;
}();

// ggml's kvalues_iq4nl and kvalues_mxfp4 (ggml-common.h), the latter in ascending order; twice E2M1's values.
constexpr std::array<int8_t, 16> iq4_levels = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr std::array<int8_t, 15> e2m1_levels = {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12};

constexpr BlockGrid grid_of(int64_t span, std::span<const int8_t> levels, BlockScale scale = BlockScale::f16, BlockMin min = BlockMin::none) {
  return {.span = span, .levels = levels, .lowest_code = 0, .highest_code = static_cast<int>(levels.size()) - 1, .scale = scale, .min = min};
}
/// With integer scales.
constexpr BlockGrid grid_of(int64_t span, std::span<const int8_t> levels, int lowest_scale, int highest_scale, BlockMin min = BlockMin::none) {
  BlockGrid grid = grid_of(span, levels, BlockScale::integer, min);
  grid.lowest_scale = lowest_scale;
  grid.highest_scale = highest_scale;
  return grid;
}
/// Of whose levels writers leave some out.
constexpr BlockGrid narrowed(BlockGrid grid, int lowest_code, int highest_code) {
  grid.lowest_code = lowest_code;
  grid.highest_code = highest_code;
  return grid;
}

using namespace gguf;
using enum GgufType;

// Ids and sizes are those of ggml.h and ggml-common.h (llama.cpp as in llama-cpp-python 0.3.36).
const GgufTypeInfo types[] = {
    {.type = f32, .name = "F32", .id = 0, .bytes = 4, .dtype = DType::f32},
    {.type = f16, .name = "F16", .id = 1, .bytes = 2, .dtype = DType::f16},
    {.type = bf16, .name = "BF16", .id = 30, .bytes = 2, .dtype = DType::bf16},
    {.type = q8_0, .name = "Q8_0", .id = 8, .block = 32, .bytes = 34, .grid = narrowed(grid_of(32, integers<-128, 127>), 1, 255), .unpack = unpack_q8_0, .pack = pack_q8_0},
    {.type = q4_0, .name = "Q4_0", .id = 2, .block = 32, .bytes = 18, .grid = grid_of(32, integers<-8, 7>), .unpack = unpack_q4_0, .pack = pack_q4_0},
    {.type = q4_1, .name = "Q4_1", .id = 3, .block = 32, .bytes = 20, .grid = grid_of(32, integers<0, 15>, BlockScale::f16, BlockMin::f16), .unpack = unpack_q4_1, .pack = pack_q4_1},
    {.type = q5_0, .name = "Q5_0", .id = 6, .block = 32, .bytes = 22, .grid = grid_of(32, integers<-16, 15>), .unpack = unpack_q5_0, .pack = pack_q5_0},
    {.type = q5_1, .name = "Q5_1", .id = 7, .block = 32, .bytes = 24, .grid = grid_of(32, integers<0, 31>, BlockScale::f16, BlockMin::f16), .unpack = unpack_q5_1, .pack = pack_q5_1},
    {.type = q2_k, .name = "Q2_K", .id = 10, .block = 256, .bytes = 84, .grid = grid_of(16, integers<0, 3>, 0, 15, BlockMin::integer), .unpack = unpack_q2_k, .pack = pack_q2_k},
    {.type = q3_k, .name = "Q3_K", .id = 11, .block = 256, .bytes = 110, .grid = grid_of(16, integers<-4, 3>, -32, 31), .unpack = unpack_q3_k, .pack = pack_q3_k},
    {.type = q4_k, .name = "Q4_K", .id = 12, .block = 256, .bytes = 144, .grid = grid_of(32, integers<0, 15>, 0, 63, BlockMin::integer), .unpack = unpack_q4_k, .pack = pack_q4_k},
    {.type = q5_k, .name = "Q5_K", .id = 13, .block = 256, .bytes = 176, .grid = grid_of(32, integers<0, 31>, 0, 63, BlockMin::integer), .unpack = unpack_q5_k, .pack = pack_q5_k},
    {.type = q6_k, .name = "Q6_K", .id = 14, .block = 256, .bytes = 210, .grid = grid_of(16, integers<-32, 31>, -128, 127), .unpack = unpack_q6_k, .pack = pack_q6_k},
    {.type = iq4_nl, .name = "IQ4_NL", .id = 20, .block = 32, .bytes = 18, .grid = grid_of(32, iq4_levels), .unpack = unpack_q4_0, .pack = pack_q4_0},
    {.type = iq4_xs, .name = "IQ4_XS", .id = 23, .block = 256, .bytes = 136, .grid = grid_of(32, iq4_levels, -32, 31), .unpack = unpack_iq4_xs, .pack = pack_iq4_xs},
    {.type = tq1_0, .name = "TQ1_0", .id = 34, .block = 256, .bytes = 54, .grid = grid_of(256, integers<-1, 1>), .unpack = unpack_tq1_0, .pack = pack_tq1_0},
    {.type = tq2_0, .name = "TQ2_0", .id = 35, .block = 256, .bytes = 66, .grid = narrowed(grid_of(256, integers<-1, 2>), 0, 2), .unpack = unpack_tq2_0, .pack = pack_tq2_0},
    {.type = mxfp4, .name = "MXFP4", .id = 39, .block = 32, .bytes = 17, .grid = grid_of(32, e2m1_levels, BlockScale::e8m0), .unpack = unpack_mxfp4, .pack = pack_mxfp4},
    {.type = nvfp4, .name = "NVFP4", .id = 40, .block = 64, .bytes = 36, .grid = grid_of(16, e2m1_levels, BlockScale::e4m3), .unpack = unpack_nvfp4, .pack = pack_nvfp4},
};

struct OtherType {
  uint32_t id;
  std::string_view name;
};
/// What ggml knows and llmc does not read.
constexpr OtherType other_types[] = {{9, "Q8_1"}, {15, "Q8_K"}, {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {21, "IQ3_S"}, {22, "IQ2_S"}, {24, "I8"}, {25, "I16"}, {26, "I32"}, {27, "I64"}, {28, "F64"}, {29, "IQ1_M"}, {41, "Q1_0"}, {42, "Q2_0"}};

}  // namespace

std::span<const GgufTypeInfo> gguf_type_list() { return types; }
const GgufTypeInfo& get_info(GgufType type) { return types[static_cast<size_t>(type)]; }

const GgufTypeInfo* find_gguf_type(uint32_t id) {
  const auto found = std::ranges::find(types, id, &GgufTypeInfo::id);
  return found == std::end(types) ? nullptr : found;
}

const GgufTypeInfo* find_gguf_type(std::string_view name) {
  const auto same = [](char a, char b) { return std::toupper(static_cast<unsigned char>(a)) == std::toupper(static_cast<unsigned char>(b)); };
  const auto found = std::ranges::find_if(types, [&](const GgufTypeInfo& type) { return std::ranges::equal(type.name, name, same); });
  return found == std::end(types) ? nullptr : found;
}

const GgufTypeInfo& get_gguf_type(uint32_t id, const std::string& where) {
  if (const GgufTypeInfo* type = find_gguf_type(id)) return *type;
  const auto other = std::ranges::find(other_types, id, &OtherType::id);
  throw Error(ErrorKind::input, other == std::end(other_types) ? fmt::format("{}: tensor type {} is not one of ggml's", where, id) : fmt::format("{}: tensor type {} is not supported; expected one of {}", where, other->name, gguf_type_names()));
}

const GgufTypeInfo& get_gguf_type(const std::string& name, const std::string& where) {
  if (const GgufTypeInfo* type = find_gguf_type(name)) return *type;
  throw Error(ErrorKind::usage, fmt::format("{}: GGUF type '{}' is not known; expected one of {}", where, name, gguf_type_names()));
}

std::string gguf_type_names() {
  std::string names;
  for (const GgufTypeInfo& type : types) names += (names.empty() ? "" : ", ") + std::string(type.name);
  return names;
}

int64_t gguf_bytes(const GgufTypeInfo& type, int64_t weights) {
  assert(weights % type.block == 0);
  const int64_t blocks = weights / type.block;
  return blocks > INT64_MAX / type.bytes ? INT64_MAX : blocks * type.bytes;
}

void evaluate(const BlockGrid& grid, const Block& block, std::span<float> values) {
  const bool even = grid.is_even();
  const auto span = static_cast<size_t>(grid.span);
  for (size_t k = 0; k * span < values.size(); ++k) {
    const float scale = block.d * block.scales[k], min = block.dmin * block.mins[k];
    const uint8_t* codes = block.codes.data() + k * span;
    float* out = values.data() + k * span;
    const int first = grid.levels.front();
    if (even)
      for (size_t i = 0; i < span; ++i) out[i] = scale * static_cast<float>(codes[i] + first);
    else
      for (size_t i = 0; i < span; ++i) out[i] = scale * static_cast<float>(grid.levels[codes[i]]);
    if (grid.min != BlockMin::none)
      for (size_t i = 0; i < span; ++i) out[i] -= min;
  }
}

void decode_gguf(const GgufTypeInfo& type, std::span<const std::byte> bytes, std::span<float> values) {
  const auto weights = static_cast<size_t>(type.block), stride = static_cast<size_t>(type.bytes);
  assert(values.size() % weights == 0 && bytes.size() == values.size() / weights * stride);
  if (type.dtype) return decode_floats(*type.dtype, bytes, values);
  Block block;
  for (size_t i = 0; i * weights < values.size(); ++i) {
    type.unpack(reinterpret_cast<const uint8_t*>(bytes.data()) + i * stride, block);
    evaluate(type.grid, block, values.subspan(i * weights, weights));
  }
}

}  // namespace llmc
