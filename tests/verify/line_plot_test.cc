#include "verify/line_plot.h"

#include <cmath>

#include "tests/catch.h"

using namespace llmc;

namespace {

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

}  // namespace

TEST_CASE("A plot has a line for each row, on a logarithmic scale") {
  const LinePlot plot{.title = "t", .x_label = "x", .x = {10, 20, 30}, .lines = {{"first", {0.01, 0.1, 1}}, {"second", {0.01, 0.01, 0.01}}}};
  const std::string svg = draw_svg(std::span(&plot, 1));
  CHECK(svg.starts_with("<svg "));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(count(svg, ">first</text>") == 1);
  CHECK(count(svg, "stroke-width=\"1.5\"") == 2);
  CHECK(count(svg, ">0.01</text>") == 1);
  CHECK(count(svg, "M70.0 254.0L360.0 145.0L650.0 36.0M") == 1);  // steps of equal ratio rise by equal heights
  CHECK(count(svg, "M70.0 254.0L360.0 254.0L650.0 254.0M") == 1);
  CHECK(svg == draw_svg(std::span(&plot, 1)));
}

TEST_CASE("A plot leaves out what a logarithm has no place for, and says so by a gap") {
  const LinePlot plot{.title = "t", .x_label = "x", .x = {0, 1, 2, 3}, .lines = {{"a", {1, NAN, 10, 10}}, {"b", {0, -1, INFINITY, 0}}}};
  const std::string svg = draw_svg(std::span(&plot, 1));
  CHECK(count(svg, "d=\"M70.0 254.0M456.7 36.0L650.0 36.0M") == 1);
  CHECK(count(svg, "nan") + count(svg, "inf") == 0);
}
