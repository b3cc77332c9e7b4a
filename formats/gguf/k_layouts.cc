#include "formats/gguf/bytes.h"
#include "formats/gguf/layouts.h"

namespace llmc::gguf {
namespace {

constexpr int superblock_weights = 256;

void start_superblock(Block& block, float d, float dmin) {
  block.d = d;
  block.dmin = dmin;
  block.mins.fill(0);
  block.codes.fill(0);
}

/// Q4_K and Q5_K: eight scales and eight minima of 6 bits in 12 bytes. Bytes 0 to 3 hold scales 0 to 3, bytes 4 to 7 minima 0 to 3;
/// bytes 8 to 11 the low four bits of scales (low nibble) and minima (high nibble) 4 to 7, whose high two bits are on top of bytes
/// 0 to 7.
void unpack_scales_and_mins(const uint8_t* bytes, Block& block) {
  for (size_t k = 0; k < 4; ++k) {
    block.scales[k] = static_cast<float>(bytes[k] & 63);
    block.mins[k] = static_cast<float>(bytes[4 + k] & 63);
    block.scales[4 + k] = static_cast<float>((bytes[8 + k] & 15) | (bytes[k] >> 6) << 4);
    block.mins[4 + k] = static_cast<float>(bytes[8 + k] >> 4 | (bytes[4 + k] >> 6) << 4);
  }
}
void pack_scales_and_mins(const Block& block, uint8_t* bytes) {
  for (size_t k = 0; k < 4; ++k) {
    const int scale = static_cast<int>(block.scales[4 + k]), min = static_cast<int>(block.mins[4 + k]);
    bytes[k] = static_cast<uint8_t>(static_cast<int>(block.scales[k]) | (scale >> 4) << 6);
    bytes[4 + k] = static_cast<uint8_t>(static_cast<int>(block.mins[k]) | (min >> 4) << 6);
    bytes[8 + k] = static_cast<uint8_t>((scale & 15) | (min & 15) << 4);
  }
}

}  // namespace

// 16 bytes of a scale (low nibble) and a minimum, 64 bytes of 2 bits, d, dmin
void unpack_q2_k(const uint8_t* bytes, Block& block) {
  start_superblock(block, load_f16(bytes + 80), load_f16(bytes + 82));
  for (size_t k = 0; k < 16; ++k) {
    block.scales[k] = static_cast<float>(bytes[k] & 15);
    block.mins[k] = static_cast<float>(bytes[k] >> 4);
  }
  unpack_bits<2, 32>(bytes + 16, superblock_weights, 0, block.codes.data());
}
void pack_q2_k(const Block& block, uint8_t* bytes) {
  for (size_t k = 0; k < 16; ++k) bytes[k] = static_cast<uint8_t>(static_cast<int>(block.scales[k]) | static_cast<int>(block.mins[k]) << 4);
  pack_bits<2, 32>(block.codes.data(), superblock_weights, 0, bytes + 16);
  store_f16(block.d, bytes + 80);
  store_f16(block.dmin, bytes + 82);
}

// 32 bytes of high bits, 64 bytes of 2 bits, 12 bytes of scales (6 bits, less 32), d. The low four bits of scale k are in byte k % 8,
// the high two in byte 8 + k % 4.
void unpack_q3_k(const uint8_t* bytes, Block& block) {
  start_superblock(block, load_f16(bytes + 108), 0);
  const uint8_t* scales = bytes + 96;
  for (int k = 0; k < 16; ++k) block.scales[static_cast<size_t>(k)] = static_cast<float>(((scales[k % 8] >> (k / 8 * 4) & 15) | (scales[8 + k % 4] >> (k / 4 * 2) & 3) << 4) - 32);
  unpack_bits<2, 32>(bytes + 32, superblock_weights, 0, block.codes.data());
  unpack_bits<1, 32>(bytes, superblock_weights, 2, block.codes.data());
}
namespace {

template <int lanes>
void pack_q3_k_codes(const uint8_t* codes, uint8_t* bytes) {
  pack_bits<1, 32 * lanes>(codes, superblock_weights * lanes, 2, bytes);
  pack_bits<2, 32 * lanes>(codes, superblock_weights * lanes, 0, bytes + 32 * lanes);
}
void pack_q3_k_scales(const Block& block, uint8_t* bytes) {
  uint8_t* scales = bytes + 96;
  std::memset(scales, 0, 12);
  for (int k = 0; k < 16; ++k) {
    const int scale = static_cast<int>(block.scales[static_cast<size_t>(k)]) + 32;
    scales[k % 8] = static_cast<uint8_t>(scales[k % 8] | (scale & 15) << (k / 8 * 4));
    scales[8 + k % 4] = static_cast<uint8_t>(scales[8 + k % 4] | (scale >> 4) << (k / 4 * 2));
  }
  store_f16(block.d, bytes + 108);
}

}  // namespace

void pack_q3_k(const Block& block, uint8_t* bytes) {
  pack_q3_k_codes<1>(block.codes.data(), bytes);
  pack_q3_k_scales(block, bytes);
}
const LaneLayout q3_k_lanes = {.first = 0, .bytes = 96, .pack_codes = pack_q3_k_codes<LaneLayout::lanes>, .pack_scales = pack_q3_k_scales};

// d, dmin, 12 bytes of scales and minima, 128 bytes of 4 bits
void unpack_q4_k(const uint8_t* bytes, Block& block) {
  start_superblock(block, load_f16(bytes), load_f16(bytes + 2));
  unpack_scales_and_mins(bytes + 4, block);
  unpack_bits<4, 32>(bytes + 16, superblock_weights, 0, block.codes.data());
}
void pack_q4_k(const Block& block, uint8_t* bytes) {
  store_f16(block.d, bytes);
  store_f16(block.dmin, bytes + 2);
  pack_scales_and_mins(block, bytes + 4);
  pack_bits<4, 32>(block.codes.data(), superblock_weights, 0, bytes + 16);
}

// d, dmin, 12 bytes of scales and minima, 32 bytes of high bits, 128 bytes of 4 bits
void unpack_q5_k(const uint8_t* bytes, Block& block) {
  start_superblock(block, load_f16(bytes), load_f16(bytes + 2));
  unpack_scales_and_mins(bytes + 4, block);
  unpack_bits<1, 32>(bytes + 16, superblock_weights, 4, block.codes.data());
  unpack_bits<4, 32>(bytes + 48, superblock_weights, 0, block.codes.data());
}
void pack_q5_k(const Block& block, uint8_t* bytes) {
  store_f16(block.d, bytes);
  store_f16(block.dmin, bytes + 2);
  pack_scales_and_mins(block, bytes + 4);
  pack_bits<1, 32>(block.codes.data(), superblock_weights, 4, bytes + 16);
  pack_bits<4, 32>(block.codes.data(), superblock_weights, 0, bytes + 48);
}

// 128 bytes of 4 low bits, 64 bytes of 2 high bits, 16 signed scales, d
void unpack_q6_k(const uint8_t* bytes, Block& block) {
  start_superblock(block, load_f16(bytes + 208), 0);
  for (size_t k = 0; k < 16; ++k) block.scales[k] = static_cast<float>(static_cast<int8_t>(bytes[192 + k]));
  unpack_bits<4, 64>(bytes, superblock_weights, 0, block.codes.data());
  unpack_bits<2, 32>(bytes + 128, superblock_weights, 4, block.codes.data());
}
void pack_q6_k(const Block& block, uint8_t* bytes) {
  pack_bits<4, 64>(block.codes.data(), superblock_weights, 0, bytes);
  pack_bits<2, 32>(block.codes.data(), superblock_weights, 4, bytes + 128);
  for (size_t k = 0; k < 16; ++k) bytes[192 + k] = static_cast<uint8_t>(static_cast<int>(block.scales[k]));
  store_f16(block.d, bytes + 208);
}

}  // namespace llmc::gguf
