// Owns the two ways in which a range of values becomes a grid.
#pragma once

#include <string_view>

namespace llmc {

/// symmetric: x = s · q.  linear: x = s · (q − z) with an integer zero point z, so that 0 is always on the grid.
enum class Mapping { symmetric, linear };

std::string_view to_string(Mapping mapping);

}  // namespace llmc
