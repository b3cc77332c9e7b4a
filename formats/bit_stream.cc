#include "formats/bit_stream.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

namespace llmc {
namespace {

/// Thirty-two codes of 4 bits at a time in the compiler's vectors, the first in the lowest bits; little endian.
size_t pack_whole_words(std::span<const int8_t> codes, std::span<std::byte> out) {
  using Pairs = uint16_t __attribute__((vector_size(32)));
  using Bytes = uint8_t __attribute__((vector_size(16)));
  constexpr size_t count = sizeof(Pairs);
  const size_t whole = codes.size() / count * count;
  for (size_t i = 0; i < whole; i += count) {
    Pairs pairs;
    std::memcpy(&pairs, codes.data() + i, sizeof pairs);
    pairs = (pairs & 0x0f0f) ^ 0x0808;  // code + 8, of which the sum modulo 16 is all there is
    const Bytes packed = __builtin_convertvector((pairs | pairs >> 4) & 0xff, Bytes);
    std::memcpy(out.data() + i / 2, &packed, sizeof packed);
  }
  return whole;
}

}  // namespace

void pack_codes(std::span<const int8_t> codes, int bits, std::span<std::byte> out) {
  assert(static_cast<int64_t>(out.size()) >= packed_bytes(static_cast<int64_t>(codes.size()), bits));
  const int offset = 1 << (bits - 1);
  uint32_t pending = 0;
  int filled = 0;
  const size_t packed = bits == 4 && std::endian::native == std::endian::little ? pack_whole_words(codes, out) : 0;
  size_t at = packed / 2;
  for (int8_t code : codes.subspan(packed)) {
    pending |= static_cast<uint32_t>(code + offset) << filled;
    for (filled += bits; filled >= 8; filled -= 8, pending >>= 8) out[at++] = static_cast<std::byte>(pending);
  }
  if (filled > 0) out[at++] = static_cast<std::byte>(pending);
  std::fill(out.begin() + static_cast<std::ptrdiff_t>(at), out.end(), std::byte{0});
}

void unpack_codes(std::span<const std::byte> packed, int bits, std::span<int8_t> codes) {
  assert(static_cast<int64_t>(packed.size()) >= packed_bytes(static_cast<int64_t>(codes.size()), bits));
  const int offset = 1 << (bits - 1);
  const uint32_t mask = (1u << bits) - 1;
  uint32_t pending = 0;
  int filled = 0;
  size_t at = 0;
  for (int8_t& code : codes) {
    if (filled < bits) pending |= static_cast<uint32_t>(packed[at++]) << filled, filled += 8;
    code = static_cast<int8_t>(static_cast<int>(pending & mask) - offset);
    pending >>= bits;
    filled -= bits;
  }
}

std::vector<std::byte> pack_marks(std::span<const uint8_t> marks) {
  std::vector<std::byte> bits(static_cast<size_t>(stream_bytes(std::ssize(marks), 1)));
  for (size_t i = 0; i < marks.size(); ++i)
    if (marks[i]) bits[i / 8] |= std::byte{1} << (i % 8);
  return bits;
}

void BitWriter::put(uint64_t value, int bits) {
  while (bits > 0) {
    if (filled_ == 8) bytes_.push_back(std::byte{0}), filled_ = 0;
    const int now = std::min(bits, 8 - filled_);
    bytes_.back() |= static_cast<std::byte>((value & ((1u << now) - 1)) << filled_);
    value >>= now;
    filled_ += now;
    bits -= now;
  }
}

uint64_t BitReader::take(int bits) {
  uint64_t value = 0;
  for (int got = 0; got < bits;) {
    const int offset = static_cast<int>(at_ % 8), now = std::min(bits - got, 8 - offset);
    value |= (static_cast<uint64_t>(bytes_[static_cast<size_t>(at_ / 8)]) >> offset & ((uint64_t{1} << now) - 1)) << got;
    got += now;
    at_ += now;
  }
  return value;
}

}  // namespace llmc
