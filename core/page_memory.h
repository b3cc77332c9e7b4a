// Owns large pieces of memory that come from the kernel in huge pages and go back at once when they are done with.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

namespace llmc {

/// Zeroed memory. From malloc such a piece costs a page fault for every 4 KiB each time that it is made.
class PageMemory {
 public:
  PageMemory() = default;
  /// Throws std::bad_alloc.
  explicit PageMemory(size_t size);
  ~PageMemory();
  PageMemory(PageMemory&& other) noexcept : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  PageMemory& operator=(PageMemory&& other) noexcept {
    std::swap(address_, other.address_);
    std::swap(size_, other.size_);
    return *this;
  }

  /// Gives back what is beyond `size` bytes, up to a page.
  void shrink(size_t size);

  std::span<std::byte> bytes() { return {static_cast<std::byte*>(address_), size_}; }
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(address_), size_}; }

 private:
  void* address_ = nullptr;
  size_t size_ = 0;
};

}  // namespace llmc
