// Owns plots of lines, as SVG text.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

namespace llmc {

struct LinePlot {
  std::string title;
  std::string x_label;
  std::vector<double> x;                                           ///< rising, at least two
  std::vector<std::pair<std::string, std::vector<double>>> lines;  ///< name and y at each x; the scale is logarithmic, what is not above 0 is left out
};

/// One below the other. The same plots give the same bytes.
std::string draw_svg(std::span<const LinePlot> plots);

}  // namespace llmc
