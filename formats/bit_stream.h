// Owns packing of small integers into a stream of bits, least significant bit first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace llmc {

/// Bytes that `count` values of `bits` bits (1..8) need, for any count.
constexpr int64_t packed_bytes(int64_t count, int bits) { return count / 8 * bits + (count % 8 * bits + 7) / 8; }

/// Writes signed codes of `bits` bits (1..8) as code + 2^(bits−1). `out` is overwritten; unused bits are 0.
void pack_codes(std::span<const int8_t> codes, int bits, std::span<std::byte> out);
/// Reads them back.
void unpack_codes(std::span<const std::byte> packed, int bits, std::span<int8_t> codes);

}  // namespace llmc
