#include "passes/rotation.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>

#include "core/parallel.h"
#include "core/random.h"

namespace llmc {

Rotation::Rotation(RotationKind kind, int64_t size, uint64_t seed, std::string_view name) : kind_(kind), signs_(static_cast<size_t>(size)), odd_(size) {
  while (odd_ % 2 == 0) odd_ /= 2;
  for (int64_t i = 0; i < odd_; ++i)
    for (int64_t j = 0; j < odd_; ++j) {
      const double angle = 2 * std::numbers::pi * static_cast<double>(i * j % odd_) / static_cast<double>(odd_);
      hartley_.push_back((std::cos(angle) + std::sin(angle)) / std::sqrt(static_cast<double>(odd_)));
    }
  Random random(seed, name);
  for (double& sign : signs_) sign = random.below(2) == 0 ? 1 : -1;
  if (kind == RotationKind::keep_mean) signs_[0] = 1;
}

void Rotation::apply_base(std::span<double> x) const {
  const auto odd = static_cast<size_t>(odd_);
  for (size_t half = odd; half < x.size(); half *= 2)  // the fast Walsh-Hadamard transform over pieces of the odd size
    for (size_t start = 0; start < x.size(); start += 2 * half)
      for (size_t i = start; i < start + half; ++i) {
        const double a = x[i], b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
  const double norm = 1 / std::sqrt(static_cast<double>(x.size() / odd));
  std::vector<double> piece(odd);
  for (size_t start = 0; start < x.size(); start += odd) {
    std::ranges::fill(piece, 0.0);
    for (size_t i = 0; i < odd; ++i)
      for (size_t j = 0; j < odd; ++j) piece[i] += hartley_[i * odd + j] * x[start + j];
    for (size_t i = 0; i < odd; ++i) x[start + i] = piece[i] * norm;
  }
}

void Rotation::apply(std::span<double> x) const {
  assert(x.size() == signs_.size());
  if (kind_ == RotationKind::keep_mean) apply_base(x);
  for (size_t i = 0; i < x.size(); ++i) x[i] *= signs_[i];
  apply_base(x);
}

void rotate_inputs(MatrixView weights, const Rotation& rotation) {
  assert(weights.cols % rotation.size() == 0);
  parallel_pieces(weights.rows, 16, [&](int64_t first, int64_t last) {
    std::vector<double> piece(static_cast<size_t>(rotation.size()));
    for (int64_t r = first; r < last; ++r)
      for (int64_t start = 0; start < weights.cols; start += rotation.size()) {
        float* values = weights.row(r) + start;
        std::copy_n(values, piece.size(), piece.begin());
        rotation.apply(piece);
        std::ranges::transform(piece, values, [](double value) { return static_cast<float>(value); });
      }
  });
}

void rotate_outputs(MatrixView weights, const Rotation& rotation) {
  assert(weights.rows % rotation.size() == 0);
  Matrix columns(weights.cols, weights.rows);
  for (int64_t r = 0; r < weights.rows; ++r)
    for (int64_t c = 0; c < weights.cols; ++c) columns.row(c)[r] = weights.row(r)[c];
  rotate_inputs(columns.view(), rotation);
  for (int64_t r = 0; r < weights.rows; ++r)
    for (int64_t c = 0; c < weights.cols; ++c) weights.row(r)[c] = columns.row(c)[r];
}

}  // namespace llmc
