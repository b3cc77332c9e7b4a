#include "passes/optimizer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <numbers>

#include "core/error.h"

namespace llmc {
namespace {

constexpr std::array optimizer_names = {"adamw", "sgd"};
constexpr std::array schedule_names = {"cosine", "linear", "constant"};

template <typename Names>
size_t find_name(const Names& names, const std::string& text, const std::string& where) {
  const auto found = std::ranges::find(names, text);
  if (found == names.end()) throw Error(ErrorKind::usage, fmt::format("{}: expected {}, found '{}'", where, fmt::join(names, " or "), text));
  return static_cast<size_t>(found - names.begin());
}

}  // namespace

std::string_view to_string(Optimizer optimizer) { return optimizer_names[static_cast<size_t>(optimizer)]; }
Optimizer parse_optimizer(const std::string& text, const std::string& where) { return static_cast<Optimizer>(find_name(optimizer_names, text, where)); }

std::string_view to_string(Schedule schedule) { return schedule_names[static_cast<size_t>(schedule)]; }
Schedule parse_schedule(const std::string& text, const std::string& where) { return static_cast<Schedule>(find_name(schedule_names, text, where)); }

double schedule_share(Schedule schedule, int64_t step, int64_t warmup, int64_t steps) {
  if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double done = static_cast<double>(step - warmup) / static_cast<double>(std::max<int64_t>(1, steps - warmup));
  switch (schedule) {
    case Schedule::cosine: return 0.5 * (1 + std::cos(std::numbers::pi * done));
    case Schedule::linear: return 1 - done;
    case Schedule::constant: return 1;
  }
  return 1;
}

}  // namespace llmc
