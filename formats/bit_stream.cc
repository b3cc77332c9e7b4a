#include "formats/bit_stream.h"

#include <algorithm>
#include <cassert>

namespace llmc {

void pack_codes(std::span<const int8_t> codes, int bits, std::span<std::byte> out) {
  assert(static_cast<int64_t>(out.size()) >= packed_bytes(static_cast<int64_t>(codes.size()), bits));
  const int offset = 1 << (bits - 1);
  uint32_t pending = 0;
  int filled = 0;
  size_t at = 0;
  for (int8_t code : codes) {
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

}  // namespace llmc
