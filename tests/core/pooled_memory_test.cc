#include "core/pooled_memory.h"

#include <cstdint>
#include <cstring>
#include <optional>
#include <thread>

#include "tests/catch.h"

using namespace llmc;

namespace {

/// In a thread of its own, whose pool is empty.
template <typename Body>
void in_new_thread(const Body& body) {
  std::thread(body).join();
}

}  // namespace

TEST_CASE("Memory that was given back is given out again, aligned and to one at a time") {
  in_new_thread([] {
    std::optional<PooledMemory> first(1000), second(1000);
    std::byte* const place = first->as<std::byte>();
    CHECK(reinterpret_cast<uintptr_t>(place) % 64 == 0);
    CHECK(second->as<std::byte>() != place);
    std::memset(place, 1, 1000);
    first.reset();
    CHECK(count_pooled_bytes() == 1024);
    const PooledMemory third(900);
    CHECK(third.as<std::byte>() == place);
    CHECK(count_pooled_bytes() == 0);
    const PooledMemory moved = std::move(*second);
    second.reset();
    CHECK(count_pooled_bytes() == 0);
  });
}

TEST_CASE("What takes nothing, again and again, leaves no pieces behind") {
  in_new_thread([] {
    for (int i = 0; i < 3; ++i) {
      const PooledMemory nothing(0), little(1);
    }
    CHECK(count_pooled_bytes() == 2 * 64);
  });
}

TEST_CASE("The pool keeps what fits its limit, and gives no piece to what is much smaller") {
  in_new_thread([] {
    constexpr size_t megabyte = size_t{1} << 20;
    { const PooledMemory huge(100 * megabyte); }
    CHECK(count_pooled_bytes() == 0);
    std::optional<PooledMemory> pieces[6];
    for (auto& piece : pieces) piece.emplace(30 * megabyte);
    std::byte* const last = pieces[5]->as<std::byte>();
    for (auto& piece : pieces) piece.reset();
    CHECK(count_pooled_bytes() == 120 * megabyte);
    const PooledMemory small(megabyte);
    CHECK(count_pooled_bytes() == 120 * megabyte);
    for (auto& piece : pieces) piece.emplace(30 * megabyte);
    CHECK(count_pooled_bytes() == 0);
    bool is_there = false;
    for (auto& piece : pieces) is_there |= piece->as<std::byte>() == last;
    CHECK(is_there);
  });
}
