#include "core/page_memory.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tests/catch.h"

using namespace llmc;

TEST_CASE("a container in pages is a container", "[page_memory]") {
  using Bytes = std::vector<int8_t, PageAllocator<int8_t>>;
  for (const size_t size : {size_t{0}, size_t{1}, PageAllocator<int8_t>::large - 1, PageAllocator<int8_t>::large, PageAllocator<int8_t>::large * 2 + 5}) {
    CAPTURE(size);
    Bytes bytes(size);
    REQUIRE(bytes.size() == size);
    CHECK(std::ranges::count(bytes, int8_t{0}) == static_cast<std::ptrdiff_t>(size));
    if (size >= PageAllocator<int8_t>::large) CHECK(reinterpret_cast<uintptr_t>(bytes.data()) % PageAllocator<int8_t>::large == 0);
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<int8_t>(i * 7);
    Bytes copy = bytes;
    CHECK(copy == bytes);
    copy.push_back(1);  // to new memory
    CHECK(std::equal(bytes.begin(), bytes.end(), copy.begin()));
    const Bytes moved = std::move(copy);
    CHECK(moved.back() == 1);
    CHECK(moved != bytes);
  }
  const std::vector<float, PageAllocator<float>> sevens(PageAllocator<float>::large, 7.0f);
  CHECK(std::ranges::count(sevens, 7.0f) == std::ptrdiff_t{PageAllocator<float>::large});
  CHECK_THROWS_AS(PageAllocator<float>().allocate(SIZE_MAX / 8), std::bad_alloc);
}
