// Owns seeded rotations: orthogonal transforms that spread each coordinate of a vector over all of them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace llmc {

/// A symmetric orthogonal transform F of vectors of any size is the Kronecker product of Walsh and Hadamard's matrix, of the
/// size of the largest power of two that divides it, and of Hartley's, cos(t) + sin(t) with t = 2π·i·j/m, of the odd rest m.
/// Its first row is constant. D is a diagonal of random signs.
enum class RotationKind {
  spread,      ///< R = F·D: a coordinate becomes a vector of (for a power of two) equal sizes; Chee 2023, Ashkboos 2024
  keep_mean,   ///< R = F·D·F with D[0] = 1: the vector of ones stays where it is, so a mean over coordinates does too
};

class Rotation {
 public:
  Rotation(RotationKind kind, int64_t size, uint64_t seed, std::string_view name);

  int64_t size() const { return static_cast<int64_t>(signs_.size()); }
  /// x := R·x in double.
  void apply(std::span<double> x) const;

 private:
  void apply_base(std::span<double> x) const;

  RotationKind kind_;
  std::vector<double> signs_;
  int64_t odd_ = 1;
  std::vector<double> hartley_;  ///< [odd, odd]
};

/// Every row, cut into pieces of the rotation's size: piece := R·piece. W·Rᵀ for W [out, in] whose inputs are rotated.
void rotate_inputs(MatrixView weights, const Rotation& rotation);
/// Every column, cut into pieces of the rotation's size: piece := R·piece. R·W for W [out, in] whose outputs are rotated.
void rotate_outputs(MatrixView weights, const Rotation& rotation);

}  // namespace llmc
