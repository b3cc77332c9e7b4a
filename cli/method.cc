#include "cli/method.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

#include "core/error.h"
#include "core/suggest.h"
#include "passes/pass.h"

namespace llmc {

std::string find_method(const std::string& command, const std::string& method) {
  const std::string prefix = command + ".";
  std::vector<std::string> methods;
  for (const PassInfo& info : pass_list()) {
    const std::string_view name = info.name;
    if (!name.starts_with(prefix)) continue;
    methods.emplace_back(name.substr(prefix.size()));
    if (methods.back() == method) return info.name;
  }
  throw Error(ErrorKind::usage, fmt::format("--method '{}' is not known{}; expected one of {}", method, did_you_mean(method, methods), fmt::join(methods, ", ")));
}

void take_calibration(Recipe& recipe, const std::string& what, const CalibrationFlags& flags, const CLI::App& app) {
  bool needs_calibration = false;
  try {
    for (const nlohmann::json& step : recipe.steps) needs_calibration |= make_pass(step, what)->needs_calibration();
  } catch (const Error& problem) {  // a mistake on the command line, not in a file
    throw Error(ErrorKind::usage, problem.what());
  }
  const auto given = given_calibration_flags(app);
  if (needs_calibration) recipe.calibration = read_calibration_flags(flags);
  else if (!given.empty()) throw Error(ErrorKind::usage, fmt::format("{} makes no sense with {}, which needs no calibration", fmt::join(given, ", "), what));
}

}  // namespace llmc
