// Owns reading little-endian values off the front of a file's bytes, with a check of every length.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "core/error.h"

namespace llmc {

/// Borrows the bytes and `where`, the name of what they are of. Every read says what it is of; one that goes beyond the end
/// throws Error(input) with that, the place, and the bytes that were needed and found.
class ByteCursor {
 public:
  ByteCursor(std::span<const std::byte> bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  size_t position() const { return position_; }
  uint64_t left() const { return bytes_.size() - position_; }
  const std::string& where() const { return where_; }

  [[noreturn]] void refuse(const std::string& what) const { throw Error(ErrorKind::input, fmt::format("{}: {}", where_, what)); }

  std::span<const std::byte> take(uint64_t size, std::string_view what) {
    if (size > left()) refuse(fmt::format("truncated: {} needs {} bytes at byte {}, found {}", what, size, position_, left()));
    const auto taken = bytes_.subspan(position_, static_cast<size_t>(size));
    position_ += static_cast<size_t>(size);
    return taken;
  }

  /// The same as text, which still lies where the bytes lie.
  std::string_view take_text(uint64_t size, std::string_view what) {
    const auto bytes = take(size, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  /// All that is left, not taken.
  std::string_view peek_text() const { return {reinterpret_cast<const char*>(bytes_.data()) + position_, bytes_.size() - position_}; }

  template <typename Number>
  Number read(std::string_view what) {
    Number value;
    std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& where_;
  size_t position_ = 0;
};

}  // namespace llmc
