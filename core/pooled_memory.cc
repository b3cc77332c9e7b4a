#include "core/pooled_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <vector>

namespace llmc {
namespace {

constexpr size_t most_kept = size_t{128} << 20;  ///< bytes of a thread
constexpr size_t smallest = 64;                    ///< bytes of a piece
constexpr size_t large_page = size_t{2} << 20;

struct Piece {
  std::byte* memory;
  size_t capacity;
};

struct Pool {
  Pool() = default;
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() {
    for (const Piece& piece : pieces) std::free(piece.memory);
  }
  void drop_oldest() {
    kept -= pieces.front().capacity;
    std::free(pieces.front().memory);
    pieces.erase(pieces.begin());
  }

  std::vector<Piece> pieces;  ///< the one that was given back last is last
  size_t kept = 0;
};
thread_local Pool pool;

Piece make_piece(size_t bytes) {
  const size_t alignment = bytes < large_page ? smallest : large_page, capacity = (bytes + alignment - 1) / alignment * alignment;
  void* const memory = std::aligned_alloc(alignment, capacity);
  if (!memory) throw std::bad_alloc();
  if (alignment == large_page) ::madvise(memory, capacity, MADV_HUGEPAGE);  // a hint: nothing is lost where it is refused
  return {static_cast<std::byte*>(memory), capacity};
}

Piece take_piece(size_t bytes) {
  auto best = pool.pieces.end();
  for (auto piece = pool.pieces.begin(); piece != pool.pieces.end(); ++piece)
    if (piece->capacity >= bytes && piece->capacity / 2 <= bytes && (best == pool.pieces.end() || piece->capacity < best->capacity)) best = piece;
  if (best == pool.pieces.end()) return make_piece(bytes);
  const Piece found = *best;
  pool.pieces.erase(best);
  pool.kept -= found.capacity;
  return found;
}

}  // namespace

PooledMemory::Memory PooledMemory::take(size_t bytes) {
  const auto [memory, capacity] = take_piece(std::max(bytes, smallest));
  return Memory(memory, GiveBack{capacity});
}

void PooledMemory::GiveBack::operator()(std::byte* memory) const {
  if (capacity > most_kept / 2) return std::free(memory);
  try {
    pool.pieces.push_back({memory, capacity});
  } catch (const std::bad_alloc&) {
    return std::free(memory);
  }
  pool.kept += capacity;
  while (pool.kept > most_kept) pool.drop_oldest();
}

size_t count_pooled_bytes() { return pool.kept; }

}  // namespace llmc
