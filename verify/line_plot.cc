#include "verify/line_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace llmc {
namespace {

constexpr double width = 760, left = 70, right = 110, top = 36, bottom = 46, least_height = 300, legend_step = 14;

bool is_shown(double y) { return std::isfinite(y) && y > 0; }

double height_of(const LinePlot& plot) { return std::max(least_height, top + bottom + legend_step * static_cast<double>(plot.lines.size())); }

std::string text(double x, double y, const char* anchor, const std::string& content) { return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor, content); }

std::string draw(const LinePlot& plot, double offset) {
  double least = INFINITY, most = 0;
  for (const auto& [name, values] : plot.lines)
    for (double y : values)
      if (is_shown(y)) least = std::min(least, y), most = std::max(most, y);
  if (most == 0) least = most = 1;
  const double low = std::floor(std::log10(least)), high = std::max(low + 1, std::ceil(std::log10(most)));
  const double height = height_of(plot), end = width - right, base = offset + height - bottom;
  const auto at_x = [&](double x) { return left + (x - plot.x.front()) / (plot.x.back() - plot.x.front()) * (end - left); };
  const auto at_y = [&](double y) { return base - (std::log10(y) - low) / (high - low) * (height - top - bottom); };

  std::string svg = text((left + end) / 2, offset + 20, "middle", plot.title) + text((left + end) / 2, base + 36, "middle", plot.x_label);
  for (double power = low; power <= high; ++power) {
    const double y = at_y(std::pow(10.0, power));
    svg += fmt::format("<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"#ccc\"/>\n", left, y, end) + text(left - 8, y + 4, "end", fmt::format("{:g}", std::pow(10.0, power)));
  }
  for (double x : plot.x) svg += text(at_x(x), base + 18, "middle", fmt::format("{:g}", x));
  for (size_t i = 0; i < plot.lines.size(); ++i) {
    const auto& [name, values] = plot.lines[i];
    const double place = plot.lines.size() < 2 ? 0 : static_cast<double>(i) / static_cast<double>(plot.lines.size() - 1);
    const std::string colour = fmt::format("hsl({:.0f},75%,42%)", 240 * (1 - place));  // from blue to red
    std::string path;
    bool is_open = false;
    for (size_t k = 0; k < values.size(); ++k) {
      if (is_shown(values[k])) path += fmt::format("{}{:.1f} {:.1f}", is_open ? "L" : "M", at_x(plot.x[k]), at_y(values[k]));
      is_open = is_shown(values[k]);
    }
    const double legend = offset + top + 8 + legend_step * static_cast<double>(i);
    svg += fmt::format("<path d=\"{}M{:.1f} {:.1f}h16\" stroke=\"{}\" stroke-width=\"1.5\" fill=\"none\"/>\n", path, end + 12, legend - 4, colour) + text(end + 34, legend, "start", name);
  }
  return svg;
}

}  // namespace

std::string draw_svg(std::span<const LinePlot> plots) {
  double height = 0;
  std::string body;
  for (const LinePlot& plot : plots) {
    body += draw(plot, height);
    height += height_of(plot);
  }
  return fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{2}</svg>\n", width, height, body);
}

}  // namespace llmc
