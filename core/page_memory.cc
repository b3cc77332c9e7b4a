#include "core/page_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

namespace llmc {

namespace {

constexpr size_t page = size_t{2} << 20;  ///< a huge one, where there are such

}  // namespace

void* map_pages(size_t size) {
  if (size > SIZE_MAX - page) throw std::bad_alloc();
  void* const found = mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) throw std::bad_alloc();
  // What lies before the first huge page and what lies behind goes back.
  auto* const begin = static_cast<std::byte*>(found);
  const size_t small = static_cast<size_t>(sysconf(_SC_PAGESIZE)), skipped = (page - reinterpret_cast<uintptr_t>(begin) % page) % page, end = skipped + (size + small - 1) / small * small;
  if (skipped > 0) munmap(begin, skipped);
  if (end < size + page) munmap(begin + end, size + page - end);
  madvise(begin + skipped, size, MADV_HUGEPAGE);  // where there are none, small pages do
  return begin + skipped;
}

void unmap_pages(void* address, size_t size) { munmap(address, size); }

PageMemory::PageMemory(size_t size) : address_(size > 0 ? map_pages(size) : nullptr), size_(size) {}

void PageMemory::shrink(size_t size) {
  const size_t kept = (size + page - 1) / page * page;
  if (kept == 0 || kept >= size_) return;
  unmap_pages(static_cast<std::byte*>(address_) + kept, size_ - kept);
  size_ = kept;
}

PageMemory::~PageMemory() {
  if (size_ > 0) unmap_pages(address_, size_);
}

}  // namespace llmc
