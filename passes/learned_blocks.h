// Owns one weight in GGUF blocks while the blocks' own scales are learned: codes and the integers of spans stay.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "formats/gguf/block_matrix.h"
#include "formats/stored_tensor.h"
#include "passes/adam.h"

namespace llmc {

/// Whether the tensor holds blocks of a type that has an f16 scale.
bool has_block_scales(const StoredTensor& tensor);

/// ŵ = d (1 + a) · scale · level − dmin (1 + b) · min with changes a and b for each block, both learned by Adam, within half and
/// twice the start, and rounded to the f16 that files hold.
class LearnedBlocks {
 public:
  /// Starts at what the tensor holds; has_block_scales(tensor).
  explicit LearnedBlocks(const StoredTensor& tensor);

  /// Scales and minima of blocks.
  int64_t scale_count() const { return static_cast<int64_t>(scale_change_.size() + min_change_.size()); }
  /// What the blocks mean by now.
  void write_values(Matrix& values) const;
  /// One step against the gradient of those values; `rate` is a share of a scale.
  void update(const Matrix& gradient, float rate);
  /// Makes the tensor hold what write_values gives.
  void store(StoredTensor& tensor) const;

 private:
  BlockMatrix now() const;

  BlockMatrix start_;
  std::vector<float> scale_change_, scale_mean_, scale_square_;
  std::vector<float> min_change_, min_mean_, min_square_;  ///< empty for a type without minima
  int64_t steps_ = 0;
};

}  // namespace llmc
