// Owns the codecs of llmc's packed container; docs/packed-format.md describes the stored parts.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "formats/codec.h"

namespace llmc {

/// dense, bitmask, packed-int, bitmask+packed-int, the last two with outliers, and the sparse codecs: the order is the order of
/// preference at equal size.
std::span<const Codec> packed_codecs();
/// One of those, or of gguf_codecs(), which store what is in blocks already.
const Codec* find_packed_codec(std::string_view name);

/// A codec that fits a tensor, and what it would store.
struct CodecSize {
  const Codec* codec = nullptr;
  std::vector<TensorLayout> layout;

  uint64_t bytes() const { return stored_bytes(layout); }
};
/// Every codec that fits, in the order of the list.
std::vector<CodecSize> weigh_packed_codecs(const StoredTensor& tensor);
/// The one with the fewest bytes, the first of equals.
const CodecSize& choose_smallest(const std::vector<CodecSize>& sizes);

/// The fitting codec that stores the tensor in the fewest bytes.
const Codec& choose_packed_codec(const StoredTensor& tensor);

}  // namespace llmc
