#include "model/block_weights.h"

#include <algorithm>

#include "model/kernels.h"

namespace llmc {
namespace {

Linear load_linear(const Model& model, Role role, int64_t block, const ForwardOptions& options) {
  return Linear(model.get(role, block), model.find(role, block, Part::bias), options.precision, options.backend, options.zeros);
}

std::optional<StoredLinear> find_stored(const Model& model, Role role, int64_t block) {
  const StoredTensor* const weight = model.find(role, block);
  return weight ? std::optional<StoredLinear>({*weight, model.find(role, block, Part::bias)}) : std::nullopt;
}

}  // namespace

NormWeights::NormWeights(const Model& model, Role role, int64_t block, int64_t head)
    : kind_(model.config().norm), epsilon_(model.config().norm_epsilon), weight_(read_matrix(model.get(role, block, Part::weight, head))) {
  if (const auto offset = static_cast<float>(model.config().norm_offset); offset != 0)
    for (float& value : weight_.values()) value += offset;
  if (const StoredTensor* bias = model.find(role, block, Part::bias, head)) bias_ = read_matrix(*bias);
}

void NormWeights::apply(ConstMatrixView x, MatrixView y) const {
  for_each_row(x.rows, [&](int64_t r) {
    if (kind_ == Norm::rms) rms_norm(x.row_span(r), weight_.values(), epsilon_, y.row_span(r));
    else layer_norm(x.row_span(r), weight_.values(), bias_.values(), epsilon_, y.row_span(r));
  });
}

std::optional<NormWeights> find_norm(const Model& model, Role role, int64_t block) {
  if (!model.find(role, block)) return std::nullopt;
  return NormWeights(model, role, block);
}

void apply(const std::optional<NormWeights>& norm, ConstMatrixView x, MatrixView y) {
  if (norm) return norm->apply(x, y);
  for_each_row(x.rows, [&](int64_t r) { std::ranges::copy(x.row_span(r), y.row(r)); });
}

HeadNorms::HeadNorms(const Model& model, Role role, int64_t block) {
  if (model.find(role, block)) norms_.emplace_back(model, role, block);
  for (int64_t head = 0; model.find(role, block, Part::weight, head); ++head) norms_.emplace_back(model, role, block, head);
}

void HeadNorms::apply(MatrixView rows) const {
  size_t next = 0;
  for (int64_t at = 0; at < rows.cols && !norms_.empty(); at += norms_[next].width(), next = (next + 1) % norms_.size()) norms_[next].apply(rows.column_range(at, norms_[next].width()), rows.column_range(at, norms_[next].width()));
}

std::optional<Linear> find_linear(const Model& model, Role role, const ForwardOptions& options) {
  return model.find(role, -1) ? std::optional(load_linear(model, role, -1, options)) : std::nullopt;
}

StageWeights::StageWeights(const Model& model, int64_t block, Tap of, const ForwardOptions& options) : tap(of), config(model.config().at_block(block)) {
  if (config.experts > 0 && tap == Tap::ffn_input) expert_inputs.emplace(model, block, options);
  if (config.experts > 0 && tap == Tap::ffn_activation) expert_outputs.emplace(model, block, options);
  if (const auto gate = find_stored(model, Role::ffn_gate, block), up = find_stored(model, Role::ffn_up, block); tap == Tap::ffn_input && gate && up) joined = Linear::make_gated(*gate, *up, config.activation, options.precision, options.backend, options.zeros);
  if (const auto q = find_stored(model, Role::query, block), k = find_stored(model, Role::key, block), v = find_stored(model, Role::value, block); tap == Tap::attention_input && q && k && v) joined = Linear::make_joined(std::array{*q, *k, *v}, options.precision, options.backend, options.zeros);
  for (const TensorRow& row : model.architecture().tensors)
    if (!expert_inputs && !expert_outputs && !joined && find_tap(row.role) == tap && model.find(row.role, block)) linears.emplace(row.role, load_linear(model, row.role, block, options));
  if (tap == Tap::attention_input) query_norms.emplace(model, Role::query_norm, block), key_norms.emplace(model, Role::key_norm, block);
  if (tap == Tap::attention_context) next_norm = find_norm(model, config.parallel && !model.find(Role::ffn_norm, block) ? Role::attention_norm : Role::ffn_norm, block);
  if (tap == Tap::attention_context) output_norm = find_norm(model, Role::attention_output_norm, block);
  if (tap == Tap::ffn_activation) output_norm = find_norm(model, Role::ffn_output_norm, block);
}

BlockWeights::BlockWeights(const Model& model, int64_t block, const ForwardOptions& options)
    : entry(model, Role::attention_norm, block), stages{StageWeights(model, block, all_taps[0], options), StageWeights(model, block, all_taps[1], options), StageWeights(model, block, all_taps[2], options), StageWeights(model, block, all_taps[3], options)} {}

HeadWeights::HeadWeights(const Model& model, const ForwardOptions& options, const HeadWeights* other)
    : entry(model, Role::final_norm, -1), cap(static_cast<float>(model.config().logit_cap)), stored(model.get(Role::output_head, -1)), has_bias(model.find(Role::output_head, -1, Part::bias) != nullptr) {
  entry.projection = find_linear(model, Role::head_projection, options);
  output = other && can_borrow(*other) ? other->output : std::make_shared<const Linear>(load_linear(model, Role::output_head, -1, options));
  model.checkpoint().release_pages_after(stored);
}

}  // namespace llmc
