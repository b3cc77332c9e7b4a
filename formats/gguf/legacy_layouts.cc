#include "formats/gguf/bytes.h"
#include "formats/gguf/layouts.h"

namespace llmc::gguf {
namespace {

constexpr int block_weights = 32;

void start_block(Block& block, int count) { std::memset(block.codes.data(), 0, static_cast<size_t>(count)); }

/// One bit of each weight in the order of the weights.
void unpack_high_bits(const uint8_t* bytes, Block& block) {
  for (int i = 0; i < block_weights; ++i) block.codes[static_cast<size_t>(i)] = static_cast<uint8_t>(block.codes[static_cast<size_t>(i)] | (bytes[i / 8] >> (i % 8) & 1) << 4);
}
void pack_high_bits(const Block& block, uint8_t* bytes) {
  for (int byte = 0; byte < block_weights / 8; ++byte) {
    int bits = 0;
    for (int i = 0; i < 8; ++i) bits |= (block.codes[static_cast<size_t>(8 * byte + i)] >> 4 & 1) << i;
    bytes[byte] = static_cast<uint8_t>(bits);
  }
}

void unpack_scale(const uint8_t* bytes, Block& block) {
  block.d = load_f16(bytes);
  block.dmin = 0;
  block.scales[0] = 1;
  block.mins[0] = 0;
}
void pack_scale(const Block& block, uint8_t* bytes) { store_f16(block.d, bytes); }
/// The file holds what is added, not what is taken away.
void unpack_scale_and_min(const uint8_t* bytes, Block& block) {
  unpack_scale(bytes, block);
  block.dmin = -load_f16(bytes + 2);
  block.mins[0] = 1;
}
void pack_scale_and_min(const Block& block, uint8_t* bytes) {
  store_f16(block.d, bytes);
  store_f16(-block.dmin, bytes + 2);
}

template <int lanes>
void pack_q4_0_codes(const uint8_t* codes, uint8_t* bytes) { pack_bits<4, 16 * lanes>(codes, block_weights * lanes, 0, bytes); }
template <int lanes>
void pack_q8_0_codes(const uint8_t* __restrict codes, uint8_t* __restrict bytes) {
  for (int i = 0; i < block_weights * lanes; ++i) bytes[i] = static_cast<uint8_t>(codes[i] ^ 0x80);
}

}  // namespace

// d, 16 bytes of 4 bits
void unpack_q4_0(const uint8_t* bytes, Block& block) {
  start_block(block, block_weights);
  unpack_scale(bytes, block);
  unpack_bits<4, 16>(bytes + 2, block_weights, 0, block.codes.data());
}
void pack_q4_0(const Block& block, uint8_t* bytes) {
  pack_scale(block, bytes);
  pack_q4_0_codes<1>(block.codes.data(), bytes + 2);
}

// d, min, 16 bytes of 4 bits
void unpack_q4_1(const uint8_t* bytes, Block& block) {
  start_block(block, block_weights);
  unpack_scale_and_min(bytes, block);
  unpack_bits<4, 16>(bytes + 4, block_weights, 0, block.codes.data());
}
void pack_q4_1(const Block& block, uint8_t* bytes) {
  pack_scale_and_min(block, bytes);
  pack_bits<4, 16>(block.codes.data(), block_weights, 0, bytes + 4);
}

// d, 32 high bits, 16 bytes of 4 bits
void unpack_q5_0(const uint8_t* bytes, Block& block) {
  start_block(block, block_weights);
  unpack_scale(bytes, block);
  unpack_high_bits(bytes + 2, block);
  unpack_bits<4, 16>(bytes + 6, block_weights, 0, block.codes.data());
}
void pack_q5_0(const Block& block, uint8_t* bytes) {
  store_f16(block.d, bytes);
  pack_high_bits(block, bytes + 2);
  pack_bits<4, 16>(block.codes.data(), block_weights, 0, bytes + 6);
}

// d, min, 32 high bits, 16 bytes of 4 bits
void unpack_q5_1(const uint8_t* bytes, Block& block) {
  start_block(block, block_weights);
  unpack_scale_and_min(bytes, block);
  unpack_high_bits(bytes + 4, block);
  unpack_bits<4, 16>(bytes + 8, block_weights, 0, block.codes.data());
}
void pack_q5_1(const Block& block, uint8_t* bytes) {
  pack_scale_and_min(block, bytes);
  pack_high_bits(block, bytes + 4);
  pack_bits<4, 16>(block.codes.data(), block_weights, 0, bytes + 8);
}

// d, 32 signed bytes
void unpack_q8_0(const uint8_t* bytes, Block& block) {
  unpack_scale(bytes, block);
  for (int i = 0; i < block_weights; ++i) block.codes[static_cast<size_t>(i)] = static_cast<uint8_t>(bytes[2 + i] ^ 0x80);
}
void pack_q8_0(const Block& block, uint8_t* bytes) {
  pack_scale(block, bytes);
  pack_q8_0_codes<1>(block.codes.data(), bytes + 2);
}

const LaneLayout q4_0_lanes = {.first = 2, .bytes = 16, .pack_codes = pack_q4_0_codes<LaneLayout::lanes>, .pack_scales = pack_scale};
const LaneLayout q8_0_lanes = {.first = 2, .bytes = 32, .pack_codes = pack_q8_0_codes<LaneLayout::lanes>, .pack_scales = pack_scale};

}  // namespace llmc::gguf
