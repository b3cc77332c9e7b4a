// Owns the list of block layouts: from bytes to what a block says, and back. Layouts are ggml's (ggml-common.h of llama.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/gguf/block.h"

namespace llmc::gguf {

// Blocks of 32 with scales in f16 (legacy_layouts.cc).
void unpack_q4_0(const uint8_t* bytes, Block& block);
void unpack_q4_1(const uint8_t* bytes, Block& block);
void unpack_q5_0(const uint8_t* bytes, Block& block);
void unpack_q5_1(const uint8_t* bytes, Block& block);
void unpack_q8_0(const uint8_t* bytes, Block& block);
void pack_q4_0(const Block& block, uint8_t* bytes);
void pack_q4_1(const Block& block, uint8_t* bytes);
void pack_q5_0(const Block& block, uint8_t* bytes);
void pack_q5_1(const Block& block, uint8_t* bytes);
void pack_q8_0(const Block& block, uint8_t* bytes);

// Blocks of 256 with scales in two levels (k_layouts.cc).
void unpack_q2_k(const uint8_t* bytes, Block& block);
void unpack_q3_k(const uint8_t* bytes, Block& block);
void unpack_q4_k(const uint8_t* bytes, Block& block);
void unpack_q5_k(const uint8_t* bytes, Block& block);
void unpack_q6_k(const uint8_t* bytes, Block& block);
void pack_q2_k(const Block& block, uint8_t* bytes);
void pack_q3_k(const Block& block, uint8_t* bytes);
void pack_q4_k(const Block& block, uint8_t* bytes);
void pack_q5_k(const Block& block, uint8_t* bytes);
void pack_q6_k(const Block& block, uint8_t* bytes);

// Tables of levels, ternary levels and small floats (table_layouts.cc). IQ4_NL is laid out as Q4_0 is.
void unpack_iq4_xs(const uint8_t* bytes, Block& block);
void unpack_tq1_0(const uint8_t* bytes, Block& block);
void unpack_tq2_0(const uint8_t* bytes, Block& block);
void unpack_mxfp4(const uint8_t* bytes, Block& block);
void unpack_nvfp4(const uint8_t* bytes, Block& block);
void pack_iq4_xs(const Block& block, uint8_t* bytes);
void pack_tq1_0(const Block& block, uint8_t* bytes);
void pack_tq2_0(const Block& block, uint8_t* bytes);
void pack_mxfp4(const Block& block, uint8_t* bytes);
void pack_nvfp4(const Block& block, uint8_t* bytes);

/// How sixteen blocks that lie side by side are packed at once.
struct LaneLayout {
  static constexpr int lanes = 16;
  size_t first, bytes;  ///< where the codes lie in a block; a multiple of 16
  void (*pack_codes)(const uint8_t* codes, uint8_t* bytes);   ///< [weights, lanes] to [bytes, lanes]
  void (*pack_scales)(const Block& block, uint8_t* bytes);    ///< the rest of a block
};
// Of those that are found so fast that packing one by one would take much of the time.
extern const LaneLayout q4_0_lanes, q8_0_lanes, q3_k_lanes;

/// 2^(e − 128): half of what E8M0 means, as ggml's FP4 levels are doubled.
float e8m0_half_to_f32(uint8_t e);
/// Half of an unsigned E4M3 float; 0 for its NaN.
float ue4m3_half_to_f32(uint8_t bits);
/// The bits with which a scale that one of them can hold exactly is written.
uint8_t f32_to_e8m0_half(float scale);
uint8_t f32_to_ue4m3_half(float scale);

}  // namespace llmc::gguf
