// Owns large pieces of memory that come from the kernel in huge pages and go back at once when they are done with.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <limits>
#include <new>
#include <span>
#include <type_traits>
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

/// Zeroed memory whose huge pages start where it starts; `size` is not 0. Throws std::bad_alloc.
void* map_pages(size_t size);
void unmap_pages(void* address, size_t size);

/// Allocator for containers that are filled right after they are made: large ones lie in huge pages, and nothing is zeroed twice. Elements without
/// a value are 0, but for those that a container gets back after it had become smaller in place.
template <typename T>
struct PageAllocator {
  static_assert(std::is_trivial_v<T>);
  using value_type = T;
  static constexpr size_t large = size_t{2} << 20;  ///< bytes

  PageAllocator() = default;
  template <typename Other>
  PageAllocator(const PageAllocator<Other>&) {}

  T* allocate(size_t count) {
    if (count > std::numeric_limits<size_t>::max() / 2 / sizeof(T)) throw std::bad_alloc();
    if (count * sizeof(T) >= large) return static_cast<T*>(map_pages(count * sizeof(T)));
    void* const address = std::calloc(count, sizeof(T));
    return address ? static_cast<T*>(address) : throw std::bad_alloc();
  }
  void deallocate(T* address, size_t count) {
    if (count * sizeof(T) >= large) unmap_pages(address, count * sizeof(T));
    else std::free(address);
  }
  void construct(T*) {}  // zero already
  template <typename Value>
  void construct(T* address, const Value& value) {
    *address = value;
  }
  bool operator==(const PageAllocator&) const = default;
};

}  // namespace llmc
