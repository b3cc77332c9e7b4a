// Owns gates: the limits a user sets, and whether the measured values keep them.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace llmc {

enum class GateDirection { at_most, at_least };

/// A limit asked for on the command line.
struct GateLimit {
  std::string name;  ///< "max_ppl_increase"
  GateDirection direction = GateDirection::at_most;
  double limit = 0;
};

/// A gate that was judged. A missing or NaN value never passes.
struct Gate {
  std::string name;
  GateDirection direction = GateDirection::at_most;
  double limit = 0;
  std::optional<double> value;
  bool passed = false;
};

Gate judge_gate(const GateLimit& limit, std::optional<double> value);

/// "gate max_kl missed: 0.0301 is over 0.02", or "" when all passed; all misses in one line.
std::string describe_misses(const std::vector<Gate>& gates);

}  // namespace llmc
