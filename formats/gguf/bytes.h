// Owns the pieces that block layouts are made of: f16 fields, and fields of a few bits spread over rows of bytes.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"

static_assert(std::endian::native == std::endian::little, "GGUF fields are read as they lie");

namespace llmc::gguf {

inline float load_f16(const uint8_t* bytes) {
  uint16_t bits;
  std::memcpy(&bits, bytes, sizeof bits);
  return f16_to_f32(bits);
}
inline void store_f16(float value, uint8_t* bytes) {
  const uint16_t bits = f32_to_f16(value);
  std::memcpy(bytes, &bits, sizeof bits);
}

/// `count` codes of `bits` bits: byte l of a row of `width` bytes holds those of l, l + width, l + 2 · width …, the first one lowest.
/// The bits go to (from) the codes from bit `place` on.
template <int bits, int width>
inline void unpack_bits(const uint8_t* __restrict bytes, int count, int place, uint8_t* __restrict codes) {
  constexpr int each = 8 / bits, mask = (1 << bits) - 1;
  for (int first = 0; first < count; first += width * each)
    for (int j = 0; j < each; ++j)
      for (int l = 0; l < width; ++l) codes[first + j * width + l] = static_cast<uint8_t>(codes[first + j * width + l] | ((bytes[first / each + l] >> (bits * j) & mask) << place));
}
template <int bits, int width>
inline void pack_bits(const uint8_t* __restrict codes, int count, int place, uint8_t* __restrict bytes) {
  constexpr int each = 8 / bits, mask = (1 << bits) - 1;
  for (int first = 0; first < count; first += width * each)
    for (int l = 0; l < width; ++l) {
      int byte = 0;
      for (int j = 0; j < each; ++j) byte |= (codes[first + j * width + l] >> place & mask) << (bits * j);
      bytes[first / each + l] = static_cast<uint8_t>(byte);
    }
}

}  // namespace llmc::gguf
