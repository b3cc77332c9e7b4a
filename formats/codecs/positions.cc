#include "formats/codecs/positions.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <initializer_list>
#include <optional>

#include "core/error.h"
#include "formats/bit_stream.h"
#include "formats/gap_stream.h"

namespace llmc {

int64_t KeptElements::number() const { return std::ranges::count(kept, uint8_t{1}); }

namespace {

template <typename Bits>
std::vector<uint8_t> mark_nonzero_of(std::span<const std::byte> bytes) {
  std::vector<uint8_t> marks(bytes.size() / sizeof(Bits));
  for (size_t i = 0; i < marks.size(); ++i) {
    Bits bits;
    std::memcpy(&bits, bytes.data() + i * sizeof(Bits), sizeof(Bits));
    marks[i] = bits != 0;
  }
  return marks;
}

}  // namespace

std::vector<uint8_t> mark_nonzero(std::span<const std::byte> bytes, size_t size) {
  switch (size) {
    case 1: return mark_nonzero_of<uint8_t>(bytes);
    case 2: return mark_nonzero_of<uint16_t>(bytes);
    case 4: return mark_nonzero_of<uint32_t>(bytes);
    case 8: return mark_nonzero_of<uint64_t>(bytes);
    default: throw Error(ErrorKind::bug, fmt::format("mark_nonzero: expected elements of 1, 2, 4 or 8 bytes, found {}", size));
  }
}

namespace {

/// A part that is a list of one of the types, of any length.
const TensorView& get_list(const StoredTensor& tensor, const EncodedData& data, const std::string& part, std::initializer_list<DType> types) {
  const auto it = data.parts.find(part);
  if (it == data.parts.end()) throw Error(ErrorKind::input, fmt::format("tensor {}: part {} is missing", tensor.name, part));
  const TensorView& found = it->second;
  if (found.shape.size() != 1 || std::ranges::find(types, found.dtype) == types.end())
    throw Error(ErrorKind::input, fmt::format("tensor {}: part {}: expected a list in {}{}, found {} {}", tensor.name, part, get_info(*types.begin()).name, types.size() > 1 ? " or wider" : "", get_info(found.dtype).name, to_string(found.shape)));
  return found;
}

[[noreturn]] void refuse(const StoredTensor& tensor, std::string_view part, const std::string& problem) { throw Error(ErrorKind::input, fmt::format("tensor {}: part {}: {}", tensor.name, part, problem)); }

/// Unsigned numbers in the narrowest type that holds them, and back.
DType narrowest(uint64_t largest) { return largest <= 0xff ? DType::u8 : largest <= 0xffff ? DType::u16 : DType::u32; }

EncodedPart make_numbers(std::string name, DType dtype, const std::vector<uint32_t>& numbers) {
  const size_t size = get_info(dtype).bytes;
  std::vector<std::byte> bytes(numbers.size() * size);
  for (size_t i = 0; i < numbers.size(); ++i) std::memcpy(bytes.data() + i * size, &numbers[i], size);  // little endian
  return {{std::move(name), dtype, {static_cast<int64_t>(numbers.size())}}, std::move(bytes)};
}

uint32_t number_at(const TensorView& list, int64_t i) {
  const size_t size = get_info(list.dtype).bytes;
  uint32_t number = 0;
  std::memcpy(&number, list.bytes.data() + static_cast<size_t>(i) * size, size);
  return number;
}

/// Bits of a mask part over `count` things; those past the end must be 0.
EncodedPart make_bits(std::string name, const std::vector<uint8_t>& marks) {
  std::vector<std::byte> bytes = pack_marks(marks);
  return {{std::move(name), DType::u8, {static_cast<int64_t>(bytes.size())}}, std::move(bytes)};
}

std::span<const std::byte> get_bits(const StoredTensor& tensor, const EncodedData& data, const std::string& part, int64_t count, const char* things) {
  const auto bits = get_part(tensor, data, part, DType::u8, {stream_bytes(count, 1)}).bytes;
  for (int64_t i = count; i < static_cast<int64_t>(bits.size()) * 8; ++i)
    if (bit_at(bits, i)) refuse(tensor, part, fmt::format("bit {} is set, but the tensor has {} {}", i, count, things));
  return bits;
}

std::vector<uint32_t> kept_positions(const KeptElements& kept) {
  std::vector<uint32_t> positions;
  positions.reserve(static_cast<size_t>(kept.number()));
  for (size_t i = 0; i < kept.kept.size(); ++i)
    if (kept.kept[i]) positions.push_back(static_cast<uint32_t>(i));
  return positions;
}

// bitmask

StoredPositions encode_bitmask(const KeptElements& kept) {
  StoredPositions stored{.parts = {}, .order = kept_positions(kept)};
  stored.parts.push_back(make_bits("mask", kept.kept));
  return stored;
}

std::vector<uint32_t> decode_bitmask(const StoredTensor& tensor, const EncodedData& data, const StoredShape& shape) {
  const auto mask = get_bits(tensor, data, "mask", shape.count(), "elements");
  std::vector<uint32_t> positions;
  for (int64_t i = 0; i < shape.count(); ++i)
    if (bit_at(mask, i)) positions.push_back(static_cast<uint32_t>(i));
  return positions;
}

// gaps

StoredPositions encode_gap_positions(const KeptElements& kept) {
  StoredPositions stored{.parts = {}, .order = kept_positions(kept)};
  const std::vector<int64_t> wide(stored.order.begin(), stored.order.end());
  std::vector<std::byte> gaps = encode_gaps(wide);
  stored.parts.push_back({{"gaps", DType::u8, {static_cast<int64_t>(gaps.size())}}, std::move(gaps)});
  stored.parts.push_back(make_numbers("kept", DType::u32, {static_cast<uint32_t>(wide.size())}));
  return stored;
}

std::vector<uint32_t> decode_gap_positions(const StoredTensor& tensor, const EncodedData& data, const StoredShape& shape) {
  const int64_t kept = number_at(get_part(tensor, data, "kept", DType::u32, {1}), 0);
  const auto positions = decode_gaps(get_list(tensor, data, "gaps", {DType::u8}).bytes, kept, shape.count());
  if (!positions) refuse(tensor, "gaps", fmt::format("does not say {} positions below {}", kept, shape.count()));
  return {positions->begin(), positions->end()};
}

// coordinates and rows: distances of 8 or 16 bits

/// The entries for the kept elements of a stretch: how many are skipped before each, `highest` at a time without storing one.
void add_skips(std::span<const uint8_t> kept, uint32_t highest, std::vector<uint32_t>& skips) {
  uint32_t skipped = 0;
  for (uint8_t is_kept : kept) {
    if (!is_kept) {
      if (++skipped == highest) skips.push_back(highest), skipped = 0;
      continue;
    }
    skips.push_back(skipped);
    skipped = 0;
  }
  while (!skips.empty() && skips.back() == highest) skips.pop_back();  // nothing comes after them
}

/// With the type that takes fewer bytes. `per_row`: distances start anew in each row.
EncodedPart make_skips(const KeptElements& kept, int64_t stretch) {
  std::optional<EncodedPart> best;
  for (const auto& [dtype, highest] : {std::pair(DType::u8, 0xffu), std::pair(DType::u16, 0xffffu)}) {
    std::vector<uint32_t> skips, own;
    for (int64_t begin = 0; begin < kept.count(); begin += stretch) {
      own.clear();
      add_skips(std::span(kept.kept).subspan(static_cast<size_t>(begin), static_cast<size_t>(stretch)), highest, own);
      skips.insert(skips.end(), own.begin(), own.end());
    }
    EncodedPart part = make_numbers("skips", dtype, skips);
    if (!best || part.own.size() < best->own.size()) best = std::move(part);
  }
  return std::move(*best);
}

StoredPositions encode_coordinates(const KeptElements& kept) {
  StoredPositions stored{.parts = {}, .order = kept_positions(kept)};
  stored.parts.push_back(make_skips(kept, std::max<int64_t>(1, kept.count())));
  return stored;
}

/// Reads entries until `number` elements are found (all entries when there is no number), from `begin` and below `end`.
void read_skips(const StoredTensor& tensor, const TensorView& skips, int64_t& entry, std::optional<int64_t> number, int64_t begin, int64_t end, std::vector<uint32_t>& positions) {
  const uint32_t highest = skips.dtype == DType::u8 ? 0xff : 0xffff;
  int64_t next = begin;
  for (int64_t found = 0; number ? found < *number : entry < skips.shape[0]; ++entry) {
    if (entry >= skips.shape[0]) refuse(tensor, "skips", fmt::format("ends after {} entries, {} elements short", entry, *number - found));
    const uint32_t skip = number_at(skips, entry);
    next += skip;
    if (skip == highest) continue;
    if (next >= end) refuse(tensor, "skips", fmt::format("entry {} leads to element {}, expected less than {}", entry, next, end));
    positions.push_back(static_cast<uint32_t>(next++));
    ++found;
  }
}

std::vector<uint32_t> decode_coordinates(const StoredTensor& tensor, const EncodedData& data, const StoredShape& shape) {
  std::vector<uint32_t> positions;
  int64_t entry = 0;
  read_skips(tensor, get_list(tensor, data, "skips", {DType::u8, DType::u16}), entry, std::nullopt, 0, shape.count(), positions);
  return positions;
}

StoredPositions encode_rows(const KeptElements& kept) {
  StoredPositions stored{.parts = {}, .order = kept_positions(kept)};
  std::vector<uint32_t> counts;
  for (int64_t r = 0; r < kept.rows; ++r) counts.push_back(static_cast<uint32_t>(std::ranges::count(std::span(kept.kept).subspan(static_cast<size_t>(r * kept.cols), static_cast<size_t>(kept.cols)), uint8_t{1})));
  stored.parts.push_back(make_numbers("row_counts", narrowest(counts.empty() ? 0 : std::ranges::max(counts)), counts));
  stored.parts.push_back(make_skips(kept, std::max<int64_t>(1, kept.cols)));
  return stored;
}

std::vector<uint32_t> decode_rows(const StoredTensor& tensor, const EncodedData& data, const StoredShape& shape) {
  const TensorView& counts = get_list(tensor, data, "row_counts", {DType::u8, DType::u16, DType::u32});
  if (counts.shape[0] != shape.rows) refuse(tensor, "row_counts", fmt::format("expected {} rows, found {}", shape.rows, counts.shape[0]));
  const TensorView& skips = get_list(tensor, data, "skips", {DType::u8, DType::u16});
  std::vector<uint32_t> positions;
  int64_t entry = 0;
  for (int64_t r = 0; r < shape.rows; ++r) {
    const int64_t number = number_at(counts, r);
    if (number > shape.cols) refuse(tensor, "row_counts", fmt::format("row {} has {} elements of {}", r, number, shape.cols));
    read_skips(tensor, skips, entry, number, r * shape.cols, (r + 1) * shape.cols, positions);
  }
  if (entry != skips.shape[0]) refuse(tensor, "skips", fmt::format("has {} entries, the rows use {}", skips.shape[0], entry));
  return positions;
}

// N of M

constexpr int64_t most_group = 64;

/// binomials[n][k]; the largest, of 64 and 32, is below 2^61.
constexpr auto binomials = [] {
  std::array<std::array<uint64_t, most_group + 1>, most_group + 1> table{};
  for (size_t n = 0; n <= most_group; ++n) {
    table[n][0] = 1;
    for (size_t k = 1; k <= n; ++k) table[n][k] = table[n - 1][k - 1] + (k < n ? table[n - 1][k] : 0);
  }
  return table;
}();

uint64_t combinations(int64_t n, int64_t k) { return k > n ? 0 : binomials[static_cast<size_t>(n)][static_cast<size_t>(k)]; }
int rank_bits(int64_t n, int64_t m) { return static_cast<int>(std::bit_width(combinations(m, n) - 1)); }

struct GroupSize {
  int64_t n = 1;
  int64_t m = 1;
};

/// The M that divides the rows, and the N it needs, that take the fewest bits.
GroupSize choose_group(const KeptElements& kept) {
  GroupSize best;
  double best_bits = kept.value_bits;
  for (int64_t m = 2; m <= std::min(most_group, kept.cols); ++m) {
    if (kept.cols % m != 0) continue;
    int64_t n = 1;
    for (size_t begin = 0; begin < kept.kept.size(); begin += static_cast<size_t>(m)) {
      int64_t number = 0;
      for (size_t i = 0; i < static_cast<size_t>(m); ++i) number += kept.kept[begin + i];
      n = std::max(n, number);
    }
    const double bits = static_cast<double>(rank_bits(n, m) + n * kept.value_bits) / static_cast<double>(m);
    if (bits < best_bits) best = {n, m}, best_bits = bits;
  }
  return best;
}

StoredPositions encode_groups(const KeptElements& kept) {
  const GroupSize size = choose_group(kept);
  StoredPositions stored;
  BitWriter places;
  for (int64_t begin = 0; begin < kept.count(); begin += size.m) {
    const uint8_t* group = kept.kept.data() + begin;
    int64_t spare = size.n - std::count(group, group + size.m, uint8_t{1});  // the first others fill up
    uint64_t rank = 0;
    for (int64_t i = 0, chosen = 0; i < size.m; ++i) {
      if (!group[i] && spare <= 0) continue;
      if (!group[i]) --spare;
      rank += combinations(i, ++chosen);
      stored.order.push_back(static_cast<uint32_t>(begin + i));
    }
    places.put(rank, rank_bits(size.n, size.m));
  }
  std::vector<std::byte> bytes = std::move(places).finish();
  stored.parts.push_back(make_numbers("group", DType::u8, {static_cast<uint32_t>(size.n), static_cast<uint32_t>(size.m)}));
  stored.parts.push_back({{"places", DType::u8, {static_cast<int64_t>(bytes.size())}}, std::move(bytes)});
  return stored;
}

std::vector<uint32_t> decode_groups(const StoredTensor& tensor, const EncodedData& data, const StoredShape& shape) {
  const TensorView& group = get_part(tensor, data, "group", DType::u8, {2});
  const int64_t n = number_at(group, 0), m = number_at(group, 1);
  if (n < 1 || n > m || m > most_group || shape.cols % m != 0) refuse(tensor, "group", fmt::format("{} of {} makes no sense for rows of {}", n, m, shape.cols));
  const int64_t groups = shape.count() / m;
  if (groups > shape.most / n) refuse(tensor, "group", fmt::format("{} of {} in {} elements: expected at most {} stored", n, m, shape.count(), shape.most));
  const int bits = rank_bits(n, m);
  BitReader places(get_part(tensor, data, "places", DType::u8, {stream_bytes(groups, bits)}).bytes);
  std::vector<uint32_t> positions;
  std::array<int64_t, most_group> chosen{};
  for (int64_t g = 0; g < groups; ++g) {
    uint64_t rank = places.take(bits);
    if (rank >= combinations(m, n)) refuse(tensor, "places", fmt::format("group {} has rank {}, expected less than {}", g, rank, combinations(m, n)));
    int64_t place = m;
    for (int64_t k = n; k > 0; --k) {  // the highest place first: the largest whose combinations fit
      do --place;
      while (combinations(place, k) > rank);
      rank -= combinations(place, k);
      chosen[static_cast<size_t>(k - 1)] = place;
    }
    for (int64_t k = 0; k < n; ++k) positions.push_back(static_cast<uint32_t>(g * m + chosen[static_cast<size_t>(k)]));
  }
  return positions;
}

// blocks

constexpr int64_t most_side = 64;

struct Blocks {
  int64_t block_rows = 1;
  int64_t block_cols = 1;
  int64_t across = 0;           ///< blocks in a row of blocks
  std::vector<uint8_t> marks;   ///< 1 where any element is kept

  Blocks widened(int64_t rows_factor, int64_t cols_factor) const {
    const int64_t down = static_cast<int64_t>(marks.size()) / std::max<int64_t>(1, across);
    Blocks wide{.block_rows = block_rows * rows_factor, .block_cols = block_cols * cols_factor, .across = across / cols_factor, .marks = std::vector<uint8_t>(marks.size() / static_cast<size_t>(rows_factor * cols_factor))};
    for (int64_t r = 0; r < down; ++r)
      for (int64_t c = 0; c < across; ++c) wide.marks[static_cast<size_t>(r / rows_factor * wide.across + c / cols_factor)] |= marks[static_cast<size_t>(r * across + c)];
    return wide;
  }
  int64_t bits(int value_bits) const { return static_cast<int64_t>(marks.size()) + std::ranges::count(marks, uint8_t{1}) * block_rows * block_cols * value_bits; }
};

/// Sides are powers of two: the pair that takes the fewest bits.
Blocks choose_blocks(const KeptElements& kept) {
  Blocks tall{.across = kept.cols, .marks = kept.kept}, best = tall;
  for (;;) {
    for (Blocks wide = tall;;) {
      if (wide.bits(kept.value_bits) < best.bits(kept.value_bits)) best = wide;
      if (wide.block_cols * 2 > most_side || kept.cols % (wide.block_cols * 2) != 0) break;
      wide = wide.widened(1, 2);
    }
    if (tall.block_rows * 2 > most_side || kept.rows % (tall.block_rows * 2) != 0) return best;
    tall = tall.widened(2, 1);
  }
}

void add_block(int64_t block, int64_t block_rows, int64_t block_cols, int64_t cols, std::vector<uint32_t>& positions) {
  const int64_t across = cols / block_cols, top = block / across * block_rows, left = block % across * block_cols;
  for (int64_t r = top; r < top + block_rows; ++r)
    for (int64_t c = left; c < left + block_cols; ++c) positions.push_back(static_cast<uint32_t>(r * cols + c));
}

StoredPositions encode_blocks(const KeptElements& kept) {
  const Blocks blocks = choose_blocks(kept);
  StoredPositions stored;
  for (size_t i = 0; i < blocks.marks.size(); ++i)
    if (blocks.marks[i]) add_block(static_cast<int64_t>(i), blocks.block_rows, blocks.block_cols, kept.cols, stored.order);
  stored.parts.push_back(make_numbers("block", DType::u8, {static_cast<uint32_t>(blocks.block_rows), static_cast<uint32_t>(blocks.block_cols)}));
  stored.parts.push_back(make_bits("block_mask", blocks.marks));
  return stored;
}

std::vector<uint32_t> decode_blocks(const StoredTensor& tensor, const EncodedData& data, const StoredShape& shape) {
  const TensorView& block = get_part(tensor, data, "block", DType::u8, {2});
  const int64_t block_rows = number_at(block, 0), block_cols = number_at(block, 1);
  if (block_rows < 1 || block_cols < 1 || block_rows > most_side || block_cols > most_side || shape.rows % block_rows != 0 || shape.cols % block_cols != 0) refuse(tensor, "block", fmt::format("blocks of {} x {} make no sense for {} rows of {}", block_rows, block_cols, shape.rows, shape.cols));
  const int64_t count = shape.count() / (block_rows * block_cols);
  const auto marks = get_bits(tensor, data, "block_mask", count, "blocks");
  int64_t stored = 0;
  for (std::byte byte : marks) stored += std::popcount(static_cast<uint8_t>(byte));
  if (stored > shape.most / (block_rows * block_cols)) refuse(tensor, "block_mask", fmt::format("{} blocks of {} x {}: expected at most {} elements", stored, block_rows, block_cols, shape.most));
  std::vector<uint32_t> positions;
  for (int64_t i = 0; i < count; ++i)
    if (bit_at(marks, i)) add_block(i, block_rows, block_cols, shape.cols, positions);
  return positions;
}

}  // namespace

const PositionCode bitmask_positions{.encode = encode_bitmask, .decode = decode_bitmask};
const PositionCode gap_positions{.encode = encode_gap_positions, .decode = decode_gap_positions};
const PositionCode coordinate_positions{.encode = encode_coordinates, .decode = decode_coordinates};
const PositionCode row_positions{.encode = encode_rows, .decode = decode_rows};
const PositionCode n_of_m_positions{.encode = encode_groups, .decode = decode_groups};
const PositionCode block_positions{.encode = encode_blocks, .decode = decode_blocks};

}  // namespace llmc
