#include "verify/gates.h"

#include <fmt/format.h>

#include <cmath>

namespace llmc {

Gate judge_gate(const GateLimit& limit, std::optional<double> value) {
  Gate gate{.name = limit.name, .direction = limit.direction, .limit = limit.limit, .value = value};
  if (value && !std::isnan(*value)) gate.passed = limit.direction == GateDirection::at_most ? *value <= limit.limit : *value >= limit.limit;
  return gate;
}

std::string describe_misses(const std::vector<Gate>& gates) {
  std::string text;
  for (const Gate& gate : gates) {
    if (gate.passed) continue;
    if (!text.empty()) text += "; ";
    if (!gate.value || std::isnan(*gate.value))
      text += fmt::format("gate {} missed: it has no value to compare with {:.6g}", gate.name, gate.limit);
    else
      text += fmt::format("gate {} missed: {:.6g} is {} {:.6g}", gate.name, *gate.value, gate.direction == GateDirection::at_most ? "over" : "under", gate.limit);
  }
  return text;
}

}  // namespace llmc
