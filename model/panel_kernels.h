// Owns the inner loop of dense f32 products: SIMD picked at run time, over a weight packed in panels of columns.
#pragma once

#include <cstdint>

namespace llmc {

/// Columns of a panel: those of two vectors of this processor. Divides 32.
int64_t panel_width();

/// Rows of A that the kernel takes at a time.
inline constexpr int64_t panel_rows = 6;

/// A panel of B times some rows of A, over a part of the depth.
struct PanelProduct {
  const float* a;    ///< [rows, depth]; or interleaved, [rows / panel_rows, rounded up][depth][panel_rows]
  int64_t a_stride;  ///< 0: interleaved
  int64_t rows;
  const float* b;    ///< [depth, panel_width()], at a multiple of its rows' bytes
  int64_t depth;
  const float* next;  ///< what is multiplied after `b`, to be on its way to the cache meanwhile; or null
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
