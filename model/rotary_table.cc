#include "model/rotary_table.h"

#include <cmath>

#include "core/parallel.h"
#include "model/kernels.h"

namespace llmc {

RotaryTable::RotaryTable(const Rope& rope, int64_t head_dim) : rope_(rope), head_dim_(head_dim), frequencies_(rope_frequencies(rope, 0)) {}

RotaryTable::Chunk RotaryTable::make_chunk(std::span<const float> frequencies, int64_t first, int64_t positions) const {
  const auto half = static_cast<int64_t>(frequencies.size());
  Chunk made{Matrix(positions, half), Matrix(positions, half), Matrix(positions, half)};
  for (int64_t r = 0; r < positions; ++r)
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(first + r) * frequencies[static_cast<size_t>(i)];
      made.cosines.row(r)[i] = static_cast<float>(std::cos(double{angle}) * rope_.magnitude);
      made.sines.row(r)[i] = static_cast<float>(std::sin(double{angle}) * rope_.magnitude);
      made.negative_sines.row(r)[i] = -made.sines.row(r)[i];
    }
  return made;
}

const RotaryTable::Chunk& RotaryTable::get_chunk(int64_t index) const {
  const std::lock_guard lock(mutex_);
  if (chunks_.size() <= static_cast<size_t>(index)) chunks_.resize(static_cast<size_t>(index) + 1);
  std::unique_ptr<const Chunk>& chunk = chunks_[static_cast<size_t>(index)];
  if (!chunk) chunk = std::make_unique<const Chunk>(make_chunk(frequencies_, index * chunk_positions, chunk_positions));
  return *chunk;
}

void RotaryTable::rotate_row(std::span<float> row, const Chunk& chunk, Matrix Chunk::* sines, int64_t place) const {
  rotate_heads(row, static_cast<size_t>(head_dim_), chunk.cosines.view().row_span(place), (chunk.*sines).view().row_span(place));
}

void RotaryTable::rotate_by(MatrixView rows, Matrix Chunk::* sines) const {
  const bool is_special = rope_.depends_on(rows.rows);
  const std::vector<float> special = is_special ? rope_frequencies(rope_, rows.rows) : std::vector<float>();
  parallel_pieces(rows.rows, chunk_positions, [&](int64_t first, int64_t last) {
    Chunk own;
    if (is_special) own = make_chunk(special, first, last - first);
    const Chunk& chunk = is_special ? own : get_chunk(first / chunk_positions);
    for (int64_t r = first; r < last; ++r) rotate_row(rows.row_span(r), chunk, sines, r - first);
  });
}

void RotaryTable::rotate(MatrixView rows) const { rotate_by(rows, &Chunk::sines); }
void RotaryTable::rotate_back(MatrixView rows) const { rotate_by(rows, &Chunk::negative_sines); }

void RotaryTable::rotate_row(std::span<float> row, int64_t position) const {
  if (rope_.depends_on(position + 1)) return rotate_row(row, make_chunk(rope_frequencies(rope_, position + 1), position, 1), &Chunk::sines, 0);
  rotate_row(row, get_chunk(position / chunk_positions), &Chunk::sines, position % chunk_positions);
}

}  // namespace llmc
