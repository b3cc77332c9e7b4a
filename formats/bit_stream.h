// Owns packing of small integers into a stream of bits, least significant bit first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace llmc {

/// Bytes that `count` values of `bits` bits (1..8) need, for any count.
constexpr int64_t packed_bytes(int64_t count, int bits) { return count / 8 * bits + (count % 8 * bits + 7) / 8; }

/// Writes signed codes of `bits` bits (1..8) as code + 2^(bits−1). `out` is overwritten; unused bits are 0.
void pack_codes(std::span<const int8_t> codes, int bits, std::span<std::byte> out);
/// Reads them back.
void unpack_codes(std::span<const std::byte> packed, int bits, std::span<int8_t> codes);

/// Bit i, least significant first.
inline bool bit_at(std::span<const std::byte> bits, int64_t i) { return (bits[static_cast<size_t>(i / 8)] >> (i % 8) & std::byte{1}) != std::byte{0}; }

/// Marks of 0 or 1 as such bits; unused bits are 0.
std::vector<std::byte> pack_marks(std::span<const uint8_t> marks);

/// Bytes that `count` values of `bits` bits (0..63) need, for any count whose bits can be counted.
constexpr int64_t stream_bytes(int64_t count, int bits) { return count / 8 * bits + (count % 8 * bits + 7) / 8; }

/// A stream of values of any width from 0 to 63 bits.
class BitWriter {
 public:
  void put(uint64_t value, int bits);
  /// The bytes; bits after the last value are 0.
  std::vector<std::byte> finish() && { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
  int filled_ = 8;  ///< bits of the last byte
};

/// Reads it back. The caller knows that there are enough bytes.
class BitReader {
 public:
  explicit BitReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  uint64_t take(int bits);

 private:
  std::span<const std::byte> bytes_;
  int64_t at_ = 0;  ///< bit
};

}  // namespace llmc
