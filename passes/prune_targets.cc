#include "passes/prune_targets.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace llmc {

using nlohmann::json;

PruneTargets::PruneTargets(FieldReader& fields, RankScope default_scope, const std::string& where) : selection_({}, {}) {
  pattern_ = parse_sparsity_pattern(fields.find_string("pattern").value_or("unstructured"), where);
  const auto scope = fields.find_string("scope");
  if (scope && pattern_.is_n_of_m()) throw Error(ErrorKind::usage, fmt::format("{}: scope makes no sense with pattern {}: weights are ranked within every {} neighbours", where, to_string(pattern_), pattern_.group));
  scope_ = scope ? parse_rank_scope(*scope, where) : default_scope;
  const auto sparsity = fields.find_number("sparsity");
  if (!sparsity && !pattern_.is_n_of_m()) throw Error(ErrorKind::usage, fmt::format("{}: sparsity is missing", where));
  sparsity_ = sparsity.value_or(pattern_.is_n_of_m() ? pattern_.sparsity() : 0);
  if (!(sparsity_ > 0 && sparsity_ < 1)) throw Error(ErrorKind::usage, fmt::format("{}: sparsity: expected more than 0 and less than 1, found {}", where, sparsity_));
  if (pattern_.is_n_of_m() && std::abs(sparsity_ - pattern_.sparsity()) > 1e-9) throw Error(ErrorKind::usage, fmt::format("{}: pattern {} means sparsity {}, found {}", where, to_string(pattern_), pattern_.sparsity(), sparsity_));
  selection_ = Selection(fields.find_strings("include"), fields.find_strings("exclude"));
}

json PruneTargets::options() const {
  json result = {{"sparsity", sparsity_}, {"pattern", to_string(pattern_)}};
  if (!pattern_.is_n_of_m()) result["scope"] = to_string(scope_);
  if (!selection_.include().empty()) result["include"] = selection_.include();
  if (!selection_.exclude().empty()) result["exclude"] = selection_.exclude();
  return result;
}

std::vector<const PlacedTensor*> PruneTargets::resolve(const Model& model) const {
  Problems problems;
  const std::vector<const PlacedTensor*> chosen = selection_.select(model, problems);
  for (const PlacedTensor* placed : chosen) {
    const StoredTensor& tensor = *placed->tensor;
    if (find_scheme(tensor)) problems.add(fmt::format("tensor {}: is already quantized; prune before quantizing", tensor.name));
    if (const std::string reason = reason_against(pattern_, tensor.rows(), tensor.cols()); !reason.empty()) problems.add(fmt::format("tensor {}: {}; exclude the tensor or choose another pattern", tensor.name, reason));
  }
  problems.throw_if_any(ErrorKind::usage, "prune");
  return chosen;
}

std::vector<Treatment> PruneTargets::plan(const Model& model) const {
  const std::string scope = scope_ == RankScope::global ? " over all" : scope_ == RankScope::row ? " per row" : "";
  const std::string description = pattern_.is_n_of_m() ? fmt::format("{} zeros in {}", pattern_.group - pattern_.kept, pattern_.group) : fmt::format("{:g} % zeros{}{}", 100 * sparsity_, pattern_.is_block() ? fmt::format(" in blocks of {}x{}", pattern_.block_rows, pattern_.block_cols) : "", scope);
  const double mask_bits = 1.0 / static_cast<double>(pattern_.block_rows * pattern_.block_cols);
  std::vector<Treatment> treatments;
  for (const PlacedTensor* placed : resolve(model)) {
    const double value_bits = 8.0 * static_cast<double>(get_info(placed->tensor->dtype).bytes);
    treatments.push_back({placed, description, std::min(value_bits, mask_bits + (1 - sparsity_) * value_bits)});
  }
  return treatments;
}

int64_t PruneTargets::planned_zeros(const StoredTensor& tensor, double sparsity) const { return llmc::planned_zeros(pattern_, scope_, sparsity, tensor.rows(), tensor.cols()); }

void PruneCount::add(int64_t weights, int64_t zeros, int64_t changed) {
  zeros_ += zeros;
  weights_ += weights;
  changed_ += changed;
  ++tensors_;
}

json PruneCount::finish(const PruneTargets& targets, int64_t planned) const {
  if (zeros_ < planned) throw Error(ErrorKind::bug, fmt::format("prune: {} zeros, expected {}", zeros_, planned));
  if (changed_ == 0) throw Error(ErrorKind::input, fmt::format("prune: nothing to do: the weights already hold {} zeros of {}, {} were asked for", zeros_, weights_, planned));
  return {{"tensors", tensors_}, {"weights", weights_}, {"sparsity_asked", targets.sparsity()}, {"sparsity_reached", static_cast<double>(zeros_) / static_cast<double>(weights_)}};
}

}  // namespace llmc
