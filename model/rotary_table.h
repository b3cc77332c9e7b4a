// Owns turning queries and keys by their positions: cosines and sines of the rotary angles, made once.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "model/rope.h"

namespace llmc {

/// Cosines and sines of the rotary angles, computed for as many positions as were asked for. Safe to use from several
/// threads. Frequencies, positions and angles are rounded to f32 as transformers does, since that defines the model.
class RotaryTable {
 public:
  RotaryTable(const Rope& rope, int64_t head_dim);

  /// Rotates every head of every row of a sequence in place; row r is at position r.
  void rotate(MatrixView rows) const;
  /// Rotates every head of one row in place, which is the last of its sequence at that position: the same bits as rotate.
  void rotate_row(std::span<float> row, int64_t position) const;
  /// The gradient of rotate: from that of its result to that of what it was given.
  void rotate_back(MatrixView rows) const;

 private:
  static constexpr int64_t chunk_positions = 256;
  /// f32 [chunk_positions, half of the rotated values] each; stays where it is once made.
  struct Chunk {
    Matrix cosines;
    Matrix sines;
    Matrix negative_sines;
  };
  Chunk make_chunk(std::span<const float> frequencies, int64_t first, int64_t positions) const;
  const Chunk& get_chunk(int64_t index) const;
  void rotate_by(MatrixView rows, Matrix Chunk::* sines) const;
  void rotate_row(std::span<float> row, const Chunk& chunk, Matrix Chunk::* sines, int64_t place) const;

  Rope rope_;
  int64_t head_dim_;
  std::vector<float> frequencies_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<const Chunk>> chunks_;
};

}  // namespace llmc
