#include <array>
#include <cmath>

#include "formats/gguf/bytes.h"
#include "formats/gguf/layouts.h"

namespace llmc::gguf {
namespace {

void start_table_block(Block& block, float d) {
  block.d = d;
  block.dmin = 0;
  block.scales.fill(1);
  block.mins.fill(0);
  block.codes.fill(0);
}

/// Five ternary digits a byte, the first one most significant, as ⌈n · 256 / 243⌉: then three times the byte's low 8 bits, over
/// 256, is the first digit, and the byte times a power of three brings another one to the front.
constexpr std::array<uint8_t, 5> powers = {1, 3, 9, 27, 81};

void unpack_digits(const uint8_t* bytes, int width, int digits, uint8_t* codes) {
  for (int j = 0; j < digits; ++j)
    for (int l = 0; l < width; ++l) codes[j * width + l] = static_cast<uint8_t>(static_cast<uint8_t>(bytes[l] * powers[static_cast<size_t>(j)]) * 3 >> 8);
}
void pack_digits(const uint8_t* codes, int width, int digits, uint8_t* bytes) {
  for (int l = 0; l < width; ++l) {
    int number = 0;
    for (int j = 0; j < 5; ++j) number = 3 * number + (j < digits ? codes[j * width + l] : 0);
    bytes[l] = static_cast<uint8_t>((number * 256 + 242) / 243);
  }
}

/// E2M1: a sign and the magnitude's place among 0 1 2 3 4 6 8 12. Codes ascend with the values: 7 is 0, and −0 is read as 0.
constexpr uint8_t code_of(int nibble) { return static_cast<uint8_t>(nibble < 8 ? 7 + nibble : 15 - nibble); }
constexpr uint8_t nibble_of(int code) { return static_cast<uint8_t>(code >= 7 ? code - 7 : 15 - code); }

template <int width>
void unpack_e2m1(const uint8_t* bytes, int count, uint8_t* codes) {
  unpack_bits<4, width>(bytes, count, 0, codes);
  for (int i = 0; i < count; ++i) codes[i] = code_of(codes[i]);
}
template <int width>
void pack_e2m1(const uint8_t* codes, int count, uint8_t* bytes) {
  std::array<uint8_t, Block::most_weights> nibbles;
  for (int i = 0; i < count; ++i) nibbles[static_cast<size_t>(i)] = nibble_of(codes[i]);
  pack_bits<4, width>(nibbles.data(), count, 0, bytes);
}

}  // namespace

float e8m0_half_to_f32(uint8_t e) { return std::ldexp(1.0f, e - 128); }
uint8_t f32_to_e8m0_half(float scale) { return static_cast<uint8_t>(std::ilogb(scale) + 128); }

float ue4m3_half_to_f32(uint8_t bits) {
  if (bits == 0x7f) return 0;
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  return exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -10) : std::ldexp(static_cast<float>(8 + mantissa), exponent - 11);
}
uint8_t f32_to_ue4m3_half(float scale) { return f32_to_f8_e4m3(2 * scale); }

// d, 16 bits of the scales' high two bits, 4 bytes of their low four, 128 bytes of 4 bits. Scales are less 32.
void unpack_iq4_xs(const uint8_t* bytes, Block& block) {
  start_table_block(block, load_f16(bytes));
  const int high = bytes[2] | bytes[3] << 8;
  for (int k = 0; k < 8; ++k) block.scales[static_cast<size_t>(k)] = static_cast<float>(((bytes[4 + k / 2] >> (k % 2 * 4) & 15) | (high >> (2 * k) & 3) << 4) - 32);
  unpack_bits<4, 16>(bytes + 8, 256, 0, block.codes.data());
}
void pack_iq4_xs(const Block& block, uint8_t* bytes) {
  store_f16(block.d, bytes);
  std::memset(bytes + 2, 0, 6);
  for (int k = 0; k < 8; ++k) {
    const int scale = static_cast<int>(block.scales[static_cast<size_t>(k)]) + 32;
    bytes[2 + k / 4] = static_cast<uint8_t>(bytes[2 + k / 4] | (scale >> 4) << (k % 4 * 2));
    bytes[4 + k / 2] = static_cast<uint8_t>(bytes[4 + k / 2] | (scale & 15) << (k % 2 * 4));
  }
  pack_bits<4, 16>(block.codes.data(), 256, 0, bytes + 8);
}

// 32 bytes of 5 digits, 16 bytes of 5 digits, 4 bytes of 4 digits, d
void unpack_tq1_0(const uint8_t* bytes, Block& block) {
  start_table_block(block, load_f16(bytes + 52));
  unpack_digits(bytes, 32, 5, block.codes.data());
  unpack_digits(bytes + 32, 16, 5, block.codes.data() + 160);
  unpack_digits(bytes + 48, 4, 4, block.codes.data() + 240);
}
void pack_tq1_0(const Block& block, uint8_t* bytes) {
  pack_digits(block.codes.data(), 32, 5, bytes);
  pack_digits(block.codes.data() + 160, 16, 5, bytes + 32);
  pack_digits(block.codes.data() + 240, 4, 4, bytes + 48);
  store_f16(block.d, bytes + 52);
}

// 64 bytes of 2 bits, d
void unpack_tq2_0(const uint8_t* bytes, Block& block) {
  start_table_block(block, load_f16(bytes + 64));
  unpack_bits<2, 32>(bytes, 256, 0, block.codes.data());
}
void pack_tq2_0(const Block& block, uint8_t* bytes) {
  pack_bits<2, 32>(block.codes.data(), 256, 0, bytes);
  store_f16(block.d, bytes + 64);
}

// E8M0, 16 bytes of 4 bits
void unpack_mxfp4(const uint8_t* bytes, Block& block) {
  start_table_block(block, 1);
  block.scales[0] = e8m0_half_to_f32(bytes[0]);
  unpack_e2m1<16>(bytes + 1, 32, block.codes.data());
}
void pack_mxfp4(const Block& block, uint8_t* bytes) {
  bytes[0] = f32_to_e8m0_half(block.scales[0]);
  pack_e2m1<16>(block.codes.data(), 32, bytes + 1);
}

// 4 unsigned E4M3 floats, 32 bytes of 4 bits
void unpack_nvfp4(const uint8_t* bytes, Block& block) {
  start_table_block(block, 1);
  for (size_t k = 0; k < 4; ++k) block.scales[k] = ue4m3_half_to_f32(bytes[k]);
  unpack_e2m1<8>(bytes + 4, 64, block.codes.data());
}
void pack_nvfp4(const Block& block, uint8_t* bytes) {
  for (size_t k = 0; k < 4; ++k) bytes[k] = f32_to_ue4m3_half(block.scales[k]);
  pack_e2m1<8>(block.codes.data(), 64, bytes + 4);
}

}  // namespace llmc::gguf
