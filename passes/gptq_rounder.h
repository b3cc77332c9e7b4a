// Owns GPTQ as a step of the calibration sweep, and its options in a recipe: a method of its own, and where others start.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "passes/hessian.h"
#include "passes/layerwise_quantizer.h"
#include "passes/sparsegpt.h"

namespace llmc {

struct GptqSettings {
  double damping = 0.01;
  RoundingOrder order = RoundingOrder::activation;
  int64_t refinements = 2;
  bool drift_correction = true;
};
/// Fields: damping (0 to 1), order (natural, activation), refinements (rounds of scale refit and coordinate descent after
/// GPTQ's own pass), drift_correction (whether weights are first corrected for what earlier layers' errors did to their
/// inputs). Throws Error(usage).
GptqSettings read_gptq_settings(FieldReader& fields, const GptqSettings& defaults, const std::string& where);
nlohmann::json to_json(const GptqSettings& settings);

class GptqRounder : public WeightRounder {
 public:
  /// With a sparsity, weights are pruned and rounded in one pass (quantize_sparsegpt); the order is then natural.
  GptqRounder(const GptqSettings& settings, const RangeOptions& range, std::optional<SparsityTarget> sparsity = std::nullopt) : settings_(settings), range_(range), sparsity_(sparsity) {}

  bool needs_drift_moment() const override { return settings_.drift_correction; }
  void begin_tap(const InputStatistics& statistics, const std::string& where) override;
  QuantizedMatrix round(ConstMatrixView weights, const QuantizeTarget& target, const InputStatistics& statistics) override;
  nlohmann::json describe_tap() const override;
  bool prunes() const override { return sparsity_.has_value(); }

 private:
  GptqSettings settings_;
  RangeOptions range_;
  std::optional<SparsityTarget> sparsity_;
  HessianFactor factor_;
};

}  // namespace llmc
