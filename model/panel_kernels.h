// Owns the inner loop of dense f32 products: SIMD picked at run time, over a weight packed in panels of columns.
#pragma once

#include <cstdint>

namespace llmc {

/// Columns of a panel: those of two vectors of this processor. Divides 32.
int64_t panel_width();

/// A panel of B times some rows of A, over a part of the depth.
struct PanelProduct {
  const float* a;    ///< [rows, depth]
  int64_t a_stride;
  int64_t rows;
  const float* b;    ///< [depth, panel_width()], at a multiple of its rows' bytes
  int64_t depth;
  float* y;          ///< [rows, panel_width()]
  int64_t y_stride;
  bool is_first;     ///< y is overwritten; else it holds the sums so far
  bool is_last;      ///< y = alpha · sums + bias then
  float alpha;
  const float* bias;  ///< [panel_width()]
};

/// y (+)= A · B, each value by one chain of fused multiply-adds in the order of the depth (where there are none, product and sum are rounded each): a
/// row's result does not depend on the other rows.
void multiply_panel(const PanelProduct& product);

}  // namespace llmc
