// Owns the ways to say which elements of a matrix are stored: each turns a mask into parts of a file and back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "formats/codec.h"

namespace llmc {

/// Elements of a matrix [rows, cols], row by row, that must be stored.
struct KeptElements {
  int64_t rows = 0;
  int64_t cols = 0;
  int value_bits = 0;         ///< that each stored element takes
  std::vector<uint8_t> kept;  ///< 0 or 1

  int64_t count() const { return rows * cols; }
  int64_t number() const;     ///< of those kept
};

/// For each element of `size` bytes (1, 2, 4 or 8): 1 where a bit of it is not 0, else 0.
std::vector<uint8_t> mark_nonzero(std::span<const std::byte> bytes, size_t size);

/// What is stored: all that is kept, and where a way says more than it must (a whole block) others too.
struct StoredPositions {
  std::vector<EncodedPart> parts;
  std::vector<uint32_t> order;  ///< row · cols + col of each stored element, in the order of storage
};

/// What a reader knows before it reads positions.
struct StoredShape {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t most = 0;  ///< elements that are stored, at most: bounds what is allocated

  int64_t count() const { return rows * cols; }
};

/// One row per way. decode(encode(x).parts) == encode(x).order.
struct PositionCode {
  StoredPositions (*encode)(const KeptElements& kept);
  /// `tensor` names the tensor for messages; the matrix has less than 2^32 elements. Throws Error(input).
  std::vector<uint32_t> (*decode)(const StoredTensor& tensor, const EncodedData& data, const StoredShape& shape);
};

/// "mask": a bit for each element.
extern const PositionCode bitmask_positions;
/// "gaps": Rice-coded distances (formats/gap_stream.h); "kept": U32 [1], how many.
extern const PositionCode gap_positions;
/// "skips", U8 or U16: elements skipped before each stored one; the highest number skips that many and stores none.
extern const PositionCode coordinate_positions;
/// "row_counts", U8, U16 or U32: stored elements of each row; "skips" as above, starting anew in each row.
extern const PositionCode row_positions;
/// "group", U8 [2]: N and M; "places": of every M elements N are stored, and which, as the rank of that combination.
extern const PositionCode n_of_m_positions;
/// "block", U8 [2]: rows and columns; "block_mask": a bit for each block, whose elements are all stored, row by row.
extern const PositionCode block_positions;

/// Largest ratio of a matrix to what is stored of it: bounds what a small file can make its reader allocate.
constexpr int64_t most_elements_per_stored = 1024;

}  // namespace llmc
