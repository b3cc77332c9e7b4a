// Owns the codecs of llmc's packed container; docs/packed-format.md describes the stored parts.
#pragma once

#include <span>
#include <string_view>

#include "formats/codec.h"

namespace llmc {

/// dense, bitmask, packed-int, bitmask+packed-int and the last two with outliers: the order is the order of preference at equal size.
std::span<const Codec> packed_codecs();
const Codec* find_packed_codec(std::string_view name);
/// The fitting codec that stores the tensor in the fewest bytes.
const Codec& choose_packed_codec(const StoredTensor& tensor);

}  // namespace llmc
