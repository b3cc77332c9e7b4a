#include "passes/channel_scaling.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "model/fold_sites.h"
#include "passes/channel_scales.h"
#include "passes/quantize_targets.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr std::array rules = {ScalingRule::none, ScalingRule::awq, ScalingRule::smoothquant};

}  // namespace

std::string_view to_string(ScalingRule rule) {
  constexpr std::array names = {"none", "awq", "smoothquant"};
  return names[static_cast<size_t>(rule)];
}

ChannelScaling::ChannelScaling(FieldReader& fields, ScalingRule default_rule, const std::string& where) : default_(default_rule) {
  const std::string name = fields.find_string("channel_scales").value_or(std::string(to_string(default_rule)));
  const auto rule = std::ranges::find(rules, name, [](ScalingRule known) { return to_string(known); });
  if (rule == rules.end()) throw Error(ErrorKind::usage, fmt::format("{}: channel scales '{}' are not known; expected none, awq or smoothquant", where, name));
  rule_ = *rule;
  const auto smoothing = fields.find_number("smoothing");
  if (smoothing && rule_ != ScalingRule::smoothquant) throw Error(ErrorKind::usage, fmt::format("{}: smoothing makes sense only with channel_scales smoothquant", where));
  smoothing_ = smoothing.value_or(smoothing_);
  if (!(smoothing_ >= 0 && smoothing_ <= 1)) throw Error(ErrorKind::usage, fmt::format("{}: smoothing: expected 0 to 1, found {}", where, smoothing_));
}

json ChannelScaling::options() const {
  json result = json::object();
  if (is_active() || default_ != ScalingRule::none) result["channel_scales"] = to_string(rule_);
  if (rule_ == ScalingRule::smoothquant) result["smoothing"] = smoothing_;
  return result;
}

json ChannelScaling::scale_block(Model& model, int64_t block, const std::map<Tap, InputStatistics>& statistics, std::span<const QuantizeTarget> targets) const {
  json notes = json::array();
  for (const FoldSite& site : find_fold_sites(model, block)) {
    const Tap tap = *find_tap(site.consumers.front());
    std::vector<Matrix> weights;  // what the problem borrows
    ScaleProblem problem{.input = &statistics.at(tap), .channel_of = site.channel_of, .channels = site.channels};
    for (const QuantizeTarget& target : targets)
      if (target.placed->block == block && std::ranges::count(site.consumers, target.placed->row->role) > 0) {
        weights.push_back(read_matrix(*target.placed->tensor));
        problem.consumers.push_back({.scheme = target.scheme, .scale_dtype = target.scale_dtype(), .where = target.placed->tensor->name});
      }
    if (weights.empty()) continue;
    for (size_t i = 0; i < weights.size(); ++i) problem.consumers[i].weight = weights[i].view();

    json note = {{"site", to_string(site)}};
    std::vector<float> scales;
    if (rule_ == ScalingRule::awq) {
      ScaleChoice choice = search_awq_scales(problem, {});
      note["error_left"] = choice.error > 0 ? choice.scaled_error / choice.error : 1.0;
      scales = std::move(choice.scales);
    } else {
      scales = smoothquant_scales(problem, smoothing_);
    }
    scales = scale_channels(model, site, scales);
    const auto [least, most] = std::ranges::minmax(scales);
    note["least_scale"] = least;
    note["most_scale"] = most;
    notes.push_back(std::move(note));
  }
  return notes;
}

}  // namespace llmc
