#include "passes/gptq_rounder.h"

#include <fmt/format.h>

#include <optional>

#include "core/error.h"
#include "passes/gptq.h"
#include "passes/reconstruction.h"
#include "passes/refinement.h"

namespace llmc {

using nlohmann::json;

GptqSettings read_gptq_settings(FieldReader& fields, const GptqSettings& defaults, const std::string& where) {
  GptqSettings settings = defaults;
  settings.damping = fields.find_number("damping").value_or(settings.damping);
  if (!(settings.damping >= 0 && settings.damping <= 1)) throw Error(ErrorKind::usage, fmt::format("{}: damping: expected 0 to 1, found {}", where, settings.damping));
  const std::string order = fields.find_string("order").value_or(std::string(to_string(settings.order)));
  if (order != to_string(RoundingOrder::natural) && order != to_string(RoundingOrder::activation)) throw Error(ErrorKind::usage, fmt::format("{}: order '{}' is not known; expected natural or activation", where, order));
  settings.order = order == to_string(RoundingOrder::natural) ? RoundingOrder::natural : RoundingOrder::activation;
  settings.refinements = fields.find_int("refinements").value_or(settings.refinements);
  if (settings.refinements < 0 || settings.refinements > 1000) throw Error(ErrorKind::usage, fmt::format("{}: refinements: expected 0 to 1000, found {}", where, settings.refinements));
  settings.drift_correction = fields.find_bool("drift_correction").value_or(settings.drift_correction);
  return settings;
}

json to_json(const GptqSettings& settings) {
  return {{"damping", settings.damping}, {"order", to_string(settings.order)}, {"refinements", settings.refinements}, {"drift_correction", settings.drift_correction}};
}

void GptqRounder::begin_tap(const InputStatistics& statistics, const std::string& where) { factor_ = factor_hessian(statistics.second_moment.view(), settings_.damping, settings_.order, where); }

QuantizedMatrix GptqRounder::round(ConstMatrixView weights, const QuantizeTarget& target, const InputStatistics& statistics) {
  const ConstMatrixView h = statistics.second_moment.view();
  std::optional<Mask> mask;  // what was pruned stays so
  if (target.placed->tensor->pruned) mask = find_zeros(weights);
  const Mask* zeros = mask ? &*mask : nullptr;
  Matrix corrected;
  if (settings_.drift_correction) {
    corrected = correct_for_drift(weights, statistics.drift_moment.view(), factor_);
    if (mask) corrected = reconstruct(corrected.view(), *mask, weights, h, factor_.damping);
    weights = corrected.view();
  }
  if (sparsity_) {
    SparseRounding sparse = quantize_sparsegpt(weights, factor_, statistics.mean_square(), *sparsity_, target.scheme, target.scale_dtype(), target.range(range_), target.placed->tensor->name);
    refine_rounding(sparse.rounded, weights, h, settings_.refinements, &sparse.mask);
    return std::move(sparse.rounded);
  }
  QuantizedMatrix rounded = quantize_gptq(weights, factor_, target.scheme, target.scale_dtype(), target.range(range_), target.placed->tensor->name, zeros);
  refine_rounding(rounded, weights, h, settings_.refinements, zeros);
  return rounded;
}

json GptqRounder::describe_tap() const { return {{"damping", factor_.damping}, {"dead_channels", factor_.dead}}; }

}  // namespace llmc
