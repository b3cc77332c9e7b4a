// Owns rescaling the channels of a block before its weights are rounded: by which rule, at which sites, and what the report says.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

#include "calib/input_statistics.h"
#include "core/json.h"
#include "model/model.h"
#include "model/tap.h"

namespace llmc {

struct QuantizeTarget;

enum class ScalingRule {
  none,
  awq,          ///< the least output error after rounding the weights (Lin 2023)
  smoothquant,  ///< ranges of inputs and weights brought together (Xiao 2022)
};
std::string_view to_string(ScalingRule rule);

/// Options: channel_scales (none, awq, smoothquant), smoothing (α of smoothquant).
class ChannelScaling {
 public:
  /// Reads its options from a step; the caller reads the method's own and calls finish().
  ChannelScaling(FieldReader& fields, ScalingRule default_rule, const std::string& where);

  /// The options in effect; none of them where nothing is rescaled and nothing would be by default.
  nlohmann::json options() const;
  bool is_active() const { return rule_ != ScalingRule::none; }
  /// Rescales the fold sites of a block whose consumers are to be quantized, in the order in which the block computes them.
  /// Returns a note per site.
  nlohmann::json scale_block(Model& model, int64_t block, const std::map<Tap, InputStatistics>& statistics, std::span<const QuantizeTarget> targets) const;

 private:
  ScalingRule default_ = ScalingRule::none;
  ScalingRule rule_ = ScalingRule::none;
  double smoothing_ = 0.8;
};

}  // namespace llmc
