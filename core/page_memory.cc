#include "core/page_memory.h"

#include <sys/mman.h>

#include <new>

namespace llmc {

PageMemory::PageMemory(size_t size) {
  if (size == 0) return;
  void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) throw std::bad_alloc();
  madvise(address, size, MADV_HUGEPAGE);  // where there are none, small pages do
  address_ = address;
  size_ = size;
}

void PageMemory::shrink(size_t size) {
  constexpr size_t page = size_t{2} << 20;  // a huge one, where there are such
  const size_t kept = (size + page - 1) / page * page;
  if (kept == 0 || kept >= size_) return;
  munmap(static_cast<std::byte*>(address_) + kept, size_ - kept);
  size_ = kept;
}

PageMemory::~PageMemory() {
  if (size_ > 0) munmap(address_, size_);
}

}  // namespace llmc
