// Owns which tensor gets which scheme: the part of a quantize step that is the same for every method.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "calib/observer.h"
#include "core/json.h"
#include "passes/channel_scaling.h"
#include "passes/grid.h"
#include "passes/pass.h"
#include "passes/selection.h"

namespace llmc {

/// A tensor that is to be quantized, and its scheme.
struct QuantizeTarget {
  const PlacedTensor* placed = nullptr;
  Scheme scheme;

  /// The type in which its scales are stored.
  DType scale_dtype() const { return scale_dtype_for(scheme, placed->tensor->dtype); }
  /// The options with which its grid is chosen: pruned weights need a 0.
  RangeOptions range(RangeOptions options) const {
    if (placed->tensor->pruned) options.zero = ZeroLevel::kept;
    return options;
  }
};

/// Options: scheme, observer (minmax, percentile, mse, hqq), percentile, input_observer and input_percentile (how the range of a
/// static input grid is found: calib/observer.h), include, exclude, keep_first, keep_last (blocks that stay
/// as they are), channel_scales and smoothing (passes/channel_scaling.h), keep_outliers (the share of each tensor's largest
/// weights that stays in 16 bits), token_embedding, output_head (a scheme or "keep"), tensor_types (a list of {pattern, scheme}; the first
/// that matches decides).
class QuantizeTargets {
 public:
  /// Reads its options from a step; the caller reads the method's own and calls finish().
  QuantizeTargets(FieldReader& fields, RangeRule default_rule, const std::string& where, ScalingRule default_scaling = ScalingRule::none);

  /// The options in effect, without "pass".
  nlohmann::json options() const;
  const RangeOptions& range() const { return range_; }
  const ChannelScaling& scaling() const { return scaling_; }
  double keep_outliers() const { return keep_outliers_; }
  /// Whether a scheme rounds inputs on grids that calibration has to find.
  bool has_static_inputs() const;
  std::unique_ptr<Observer> make_input_observer(const std::string& where) const;
  /// In model order. Throws Error(usage) with every problem.
  std::vector<QuantizeTarget> resolve(const Model& model) const;
  std::vector<Treatment> plan(const Model& model) const;

 private:
  /// A scheme, or nothing for "keep".
  using Choice = std::optional<Scheme>;
  using Choices = std::vector<std::pair<const PlacedTensor*, Choice>>;
  struct Override {
    Pattern pattern;
    Choice choice;
  };
  static Choice parse_choice(const std::string& text);
  static std::string to_text(const Choice& choice);
  Choices choose(const Model& model, Problems& problems) const;

  Scheme scheme_;
  RangeOptions range_;
  ChannelScaling scaling_;
  std::string input_observer_ = "mse";
  std::optional<double> input_percentile_;
  Selection selection_;
  double keep_outliers_ = 0;
  int64_t keep_first_ = 0;
  int64_t keep_last_ = 0;
  Choice embedding_;
  Choice head_;
  std::vector<Override> overrides_;
};

/// The target's weights, outliers taken out and the rest rounded to nearest.
QuantizedMatrix round_target(const QuantizeTarget& target, const QuantizeTargets& targets);

/// Counts the quantized tensors of a model, to check that a pass did what it planned.
int64_t count_quantized(const Model& model);

}  // namespace llmc
