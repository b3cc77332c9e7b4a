// Owns one quantized weight while its rounding and its scales are learned: from gradients of its values to codes on the grid.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "formats/quantized_matrix.h"
#include "passes/adam.h"
#include "passes/grid.h"

namespace llmc {

/// Sizes of one step.
struct LearningRates {
  float rounding = 0;  ///< of an offset, in codes; 0: the codes stay as they are
  float scale = 0;     ///< of a scale, as a share of where it started
  AdamDecay decay;
};

/// The codes of a span, without the zero point, and what they mean before the scale.
struct CodeRange {
  float lowest = 0;
  float highest = 0;
  const float* levels = nullptr;  ///< from the lowest code on; nullptr: the codes themselves
};

/// ŵ = s · (clamp(round(w / s₀ + v) + z) − z) with an offset v for every weight and a scale s for every span, both learned
/// by Adam; rounding passes gradients straight through (Bengio 2013; Cheng 2023 learns v by the sign of the gradient). On a
/// grid that is not evenly spaced w / s₀ + v is a place between codes too, and ŵ = s · level: the gaps between levels only
/// change the size of a gradient, which Adam divides out. A weight of 0 keeps its code, so that what was pruned stays so. A
/// scale stays within half and twice its start, rounded as the scheme stores it; a power of two hardly ever moves, and
/// centroids stay.
class LearnedGrid {
 public:
  /// Starts at the codes and scales of `start`, made from `weights`, which are borrowed, by any method.
  LearnedGrid(ConstMatrixView weights, QuantizedMatrix start);

  int64_t scale_count() const { return start_.scale_count(); }
  /// The values that the present codes and scales decode to.
  void write_values(Matrix& values) const;
  /// One step against the gradient of those values, which write_values gave last.
  void update(const Matrix& gradient, const LearningRates& rates);

  /// Instead of offsets that update() learned: all v, in codes, from where the weights lay at the start.
  void set_offsets(const Matrix& offsets);
  /// The gradient of the offsets from that of the values, in its place: rounding passes it straight through. 0 for a weight of 0.
  void make_offset_gradient(Matrix& gradient) const;

  /// As it is now: exactly what write_values gives.
  QuantizedMatrix quantized() const;

 private:
  /// body(row, first column, index of the scale, grid at the start) for every span, from several threads.
  void for_each_span(auto&& body) const;
  /// The scale of a span as it is now and as it is stored.
  float stored_scale(const Grid& start, int64_t index) const;

  ConstMatrixView weights_;
  QuantizedMatrix start_;
  Matrix position_;                     ///< w / s₀ + v, in codes without the zero point, no further than half a code off the grid
  Matrix origin_;                       ///< the same without v; empty until set_offsets
  Matrix rounding_mean_, rounding_square_;  ///< empty until codes are learned
  std::vector<float> scale_change_;     ///< s / s₀ − 1; empty for a codebook
  std::vector<float> scale_mean_, scale_square_;
  int64_t steps_ = 0;
};

}  // namespace llmc
