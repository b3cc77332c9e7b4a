#include "formats/gap_stream.h"

namespace llmc {
namespace {

constexpr int most_remainder_bits = 40;

void each_gap(std::span<const int64_t> positions, auto&& body) {
  int64_t next = 0;
  for (int64_t position : positions) body(position - next), next = position + 1;
}

struct Layout {
  int remainder_bits = 0;
  int64_t bits = 0;
};

Layout choose_layout(std::span<const int64_t> positions) {
  Layout best;
  for (int r = 0; r <= most_remainder_bits; ++r) {
    int64_t bits = 0;
    each_gap(positions, [&](int64_t gap) { bits += (gap >> r) + 1 + r; });
    if (r == 0 || bits < best.bits) best = {r, bits};
  }
  return best;
}

}  // namespace

int64_t gap_bytes(std::span<const int64_t> positions) { return positions.empty() ? 0 : 1 + (choose_layout(positions).bits + 7) / 8; }

std::vector<std::byte> encode_gaps(std::span<const int64_t> positions) {
  if (positions.empty()) return {};
  const Layout layout = choose_layout(positions);
  std::vector<std::byte> bytes(static_cast<size_t>(1 + (layout.bits + 7) / 8));
  bytes[0] = static_cast<std::byte>(layout.remainder_bits);
  int64_t at = 8;
  const auto put = [&](bool bit) {
    if (bit) bytes[static_cast<size_t>(at / 8)] |= std::byte{1} << (at % 8);
    ++at;
  };
  each_gap(positions, [&](int64_t gap) {
    for (int64_t q = gap >> layout.remainder_bits; q > 0; --q) put(true);
    put(false);
    for (int bit = 0; bit < layout.remainder_bits; ++bit) put(gap >> bit & 1);
  });
  return bytes;
}

std::optional<std::vector<int64_t>> decode_gaps(std::span<const std::byte> bytes, int64_t count, int64_t limit) {
  if (count == 0) return bytes.empty() ? std::optional(std::vector<int64_t>()) : std::nullopt;
  if (bytes.empty() || count < 0 || count > limit) return std::nullopt;
  const int remainder_bits = static_cast<int>(bytes[0]);
  if (remainder_bits > most_remainder_bits) return std::nullopt;
  const auto end = static_cast<int64_t>(bytes.size()) * 8;
  int64_t at = 8;
  const auto take = [&] {
    const bool bit = (bytes[static_cast<size_t>(at / 8)] >> (at % 8) & std::byte{1}) != std::byte{0};
    ++at;
    return bit;
  };
  std::vector<int64_t> positions;
  int64_t next = 0;
  while (static_cast<int64_t>(positions.size()) < count) {
    int64_t quotient = 0;
    bool ended = false;
    while (at < end && !(ended = !take())) ++quotient;
    if (!ended || at + remainder_bits > end || quotient > (limit >> remainder_bits)) return std::nullopt;
    int64_t gap = quotient << remainder_bits;
    for (int bit = 0; bit < remainder_bits; ++bit) gap |= static_cast<int64_t>(take()) << bit;
    if (gap >= limit - next) return std::nullopt;
    positions.push_back(next + gap);
    next += gap + 1;
  }
  if (at + 7 < end) return std::nullopt;
  while (at < end)
    if (take()) return std::nullopt;
  return positions;
}

}  // namespace llmc
