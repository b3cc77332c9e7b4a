// Owns storing a few ascending positions in little space: the gaps between them, Rice-coded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace llmc {

/// One byte with the number of remainder bits r, then a bit stream (least significant bit first): for each position the
/// positions skipped since the last one, g, as ⌊g / 2^r⌋ ones, a zero, and the low r bits of g. r is the smallest that
/// takes the fewest bits. Nothing for no positions.
std::vector<std::byte> encode_gaps(std::span<const int64_t> positions);

/// Bytes that encode_gaps makes.
int64_t gap_bytes(std::span<const int64_t> positions);

/// `count` positions below `limit`; nullopt when the bytes are not exactly what encode_gaps makes of any such positions,
/// whatever r.
std::optional<std::vector<int64_t>> decode_gaps(std::span<const std::byte> bytes, int64_t count, int64_t limit);

}  // namespace llmc
