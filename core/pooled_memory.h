// Owns memory for what lives shortly and is wanted again at once: it stays with the thread that gave it back.
#pragma once

#include <cstddef>
#include <memory>

#include "core/tensor.h"

namespace llmc {

/// Not zeroed, at an address that is a multiple of 64. From malloc, what a layer writes would cost a page fault for every 4 KiB each
/// time that it runs.
class PooledMemory {
 public:
  /// Throws std::bad_alloc.
  explicit PooledMemory(size_t bytes) : memory_(take(bytes)) {}

  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  struct GiveBack {
    void operator()(std::byte* memory) const;
    size_t capacity;
  };
  using Memory = std::unique_ptr<std::byte, GiveBack>;
  static Memory take(size_t bytes);

  Memory memory_;
};

/// An f32 matrix that is written before it is read: unlike Matrix it does not start as zeros.
class Scratch {
 public:
  Scratch(int64_t rows, int64_t cols) : memory_(static_cast<size_t>(rows * cols) * sizeof(float)), view_{memory_.as<float>(), rows, cols, cols} {}
  const MatrixView& view() const { return view_; }

 private:
  PooledMemory memory_;
  MatrixView view_;
};

/// Bytes that this thread keeps for the next that asks.
size_t count_pooled_bytes();

}  // namespace llmc
