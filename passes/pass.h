// Owns what a pass is: a step of a recipe that changes a model's weights.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "calib/sweep.h"
#include "core/run_context.h"
#include "model/model.h"

namespace llmc {

/// What a pass will do to one tensor.
struct Treatment {
  const PlacedTensor* target = nullptr;
  std::string description;   ///< "W4A16-g32-symmetric", "50 % zeros"
  double bits = 0;           ///< expected bits per weight afterwards, scales included
};

/// What a run gives its passes beside the model.
struct PassContext {
  const RunContext& run;
  uint64_t seed = 0;
  const Sequences* calibration = nullptr;  ///< not nullptr for a pass that needs it
  SweepOptions sweep;                      ///< how calibration runs
  std::filesystem::path state_directory;   ///< where an interrupted step leaves what another run can go on from; may not be there
  std::function<Model()> load_original;    ///< the model before any pass, read again

  /// How a sweep runs that only looks, before the one that changes weights: with a state of its own, or none when nothing
  /// outlives the process.
  SweepOptions scan() const;
};

class Pass {
 public:
  virtual ~Pass() = default;
  /// The options in effect, defaults filled in: what the recipe records. `pass` is the name in the list.
  virtual nlohmann::json options() const = 0;
  /// Checks everything that can be checked before work begins, and says what run() will do. Throws Error(usage) that
  /// lists every problem.
  virtual std::vector<Treatment> plan(const Model& model) const = 0;
  /// The model that later passes plan on, where run() changes shapes (outline_model); nothing where shapes stay. It may borrow
  /// from `model`.
  virtual std::optional<Model> outline(const Model& /*model*/) const { return std::nullopt; }
  virtual bool needs_calibration() const { return false; }
  /// Changes the model. Returns what the report should say. Throws Error(bug) when it did other than planned.
  virtual nlohmann::json run(Model& model, const PassContext& context) = 0;
};

/// One row per pass. `make` reads the options of a recipe step strictly (Error(input) for unknown fields).
struct PassInfo {
  const char* name;
  const char* summary;
  std::unique_ptr<Pass> (*make)(const nlohmann::json& step, const std::string& where);
};
std::span<const PassInfo> pass_list();
/// Throws Error(input) that lists the known ones.
std::unique_ptr<Pass> make_pass(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
