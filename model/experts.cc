#include "model/experts.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "model/kernels.h"

namespace llmc {
namespace {

Linear load_expert(const Model& model, Role role, int64_t block, int64_t expert, const ForwardOptions& options) {
  return Linear(model.get(role, block, Part::weight, expert), model.find(role, block, Part::bias, expert), options.precision, options.backend, options.zeros);
}

Linear load_router(const Model& model, Role role, int64_t block, const ForwardOptions& options) {
  return Linear(model.get(role, block), nullptr, Precision::f32, options.backend, Zeros::multiplied);
}

/// y = Σ over parts, in their order, of what each made of its rows. Calls make(part) for every part that has any, several at once.
template <typename Make>
void add_parts(const std::vector<PartTokens>& tokens, MatrixView y, const Make& make) {
  std::vector<Matrix> made(tokens.size());
  parallel_for(std::ssize(tokens), [&](int64_t part) {
    if (const auto at = static_cast<size_t>(part); !tokens[at].rows.empty()) made[at] = make(at);
  });
  for (int64_t r = 0; r < y.rows; ++r) std::ranges::fill(y.row_span(r), 0.0f);
  for (size_t part = 0; part < tokens.size(); ++part)
    parallel_pieces(std::ssize(tokens[part].rows), 64, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) add_to(y.row_span(tokens[part].rows[static_cast<size_t>(i)]), made[part].view().row_span(i));
    });
}

}  // namespace

std::vector<int64_t> routed_rows(ConstMatrixView a, ConstMatrixView b) {
  const auto has_values = [](std::span<const float> row) { return std::ranges::any_of(row, [](float value) { return value != 0; }); };
  std::vector<int64_t> rows;
  for (int64_t r = 0; r < a.rows; ++r)
    if (has_values(a.row_span(r)) || has_values(b.row_span(r))) rows.push_back(r);
  return rows;
}

Matrix take_rows(ConstMatrixView from, const std::vector<int64_t>& rows) {
  Matrix result(std::ssize(rows), from.cols);
  for (int64_t i = 0; i < result.rows(); ++i) std::ranges::copy(from.row_span(rows[static_cast<size_t>(i)]), result.row(i));
  return result;
}

std::vector<RoutedExpert> route(std::span<float> logits, int64_t count, bool normalizes) {
  softmax(logits);
  std::vector<RoutedExpert> chosen;
  std::vector<bool> taken(logits.size());
  float sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    size_t best = static_cast<size_t>(std::ranges::find(taken, false) - taken.begin());
    for (size_t e = best + 1; e < logits.size(); ++e)
      if (!taken[e] && logits[e] > logits[best]) best = e;
    taken[best] = true;
    chosen.push_back({.expert = static_cast<int64_t>(best), .share = logits[best]});
    sum += logits[best];
  }
  if (normalizes)
    for (RoutedExpert& routed : chosen) routed.share /= sum;
  return chosen;
}

ExpertInputs::ExpertInputs(const Model& model, int64_t block, const ForwardOptions& options) : config_(model.config()), columns_(list_parts(Tap::ffn_activation, config_)), router_(load_router(model, Role::router, block, options)) {
  for (int64_t expert = 0; expert < config_.experts; ++expert) parts_.push_back({load_expert(model, Role::expert_gate, block, expert, options), load_expert(model, Role::expert_up, block, expert, options)});
  if (config_.shared_ffn == 0) return;
  shared_router_ = load_router(model, Role::shared_router, block, options);
  parts_.push_back({load_expert(model, Role::shared_gate, block, -1, options), load_expert(model, Role::shared_up, block, -1, options)});
}

std::vector<PartTokens> ExpertInputs::assign(ConstMatrixView normed) const {
  std::vector<PartTokens> tokens(parts_.size());
  Matrix logits(normed.rows, config_.experts);
  router_.apply(normed, logits.view());
  for (int64_t r = 0; r < normed.rows; ++r)
    for (const auto& [expert, share] : route(logits.view().row_span(r), config_.experts_per_token, config_.normalizes_routing)) {
      tokens[static_cast<size_t>(expert)].rows.push_back(r);
      tokens[static_cast<size_t>(expert)].shares.push_back(share);
    }
  if (!shared_router_) return tokens;
  Matrix shared(normed.rows, 1);
  shared_router_->apply(normed, shared.view());
  for (int64_t r = 0; r < normed.rows; ++r) {
    tokens.back().rows.push_back(r);
    tokens.back().shares.push_back(1 / (1 + std::exp(-shared.row(r)[0])));
  }
  return tokens;
}

Matrix ExpertInputs::run(size_t part, const PartTokens& tokens, ConstMatrixView normed) const {
  const auto& [gate, up] = parts_[part];
  const Matrix input = take_rows(normed, tokens.rows);
  Matrix active(input.rows(), gate.out()), other(input.rows(), up.out());
  gate.apply(input.view(), active.view());
  up.apply(input.view(), other.view());
  parallel_pieces(active.rows(), 64, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const std::span<float> row = active.view().row_span(i);
      activate(config_.activation, row);
      multiply_by(row, other.view().row_span(i));
      for (float& value : row) value *= tokens.shares[static_cast<size_t>(i)];
    }
  });
  return active;
}

void ExpertInputs::run_all(ConstMatrixView normed, MatrixView activation) const {
  const std::vector<PartTokens> tokens = assign(normed);
  for (int64_t r = 0; r < activation.rows; ++r) std::ranges::fill(activation.row_span(r), 0.0f);
  parallel_for(std::ssize(tokens), [&](int64_t part) {
    const auto at = static_cast<size_t>(part);
    if (tokens[at].rows.empty()) return;
    const Matrix active = run(at, tokens[at], normed);
    const MatrixView columns = activation.column_range(columns_[at].first, columns_[at].count);
    for (int64_t i = 0; i < active.rows(); ++i) std::ranges::copy(active.view().row_span(i), columns.row(tokens[at].rows[static_cast<size_t>(i)]));
  });
}

ExpertOutputs::ExpertOutputs(const Model& model, int64_t block, const ForwardOptions& options) : columns_(list_parts(Tap::ffn_activation, model.config())) {
  for (const TapPart& part : columns_) parts_.push_back(part.number == shared_part ? load_expert(model, Role::shared_down, block, -1, options) : load_expert(model, Role::expert_down, block, part.number, options));
}

Matrix ExpertOutputs::run(size_t part, const Matrix& active) const {
  Matrix y(active.rows(), parts_[part].out());
  parts_[part].apply(active.view(), y.view());
  return y;
}

void ExpertOutputs::run_all(ConstMatrixView activation, MatrixView y) const {
  const auto part_of = [&](size_t part) { return activation.column_range(columns_[part].first, columns_[part].count); };
  std::vector<PartTokens> tokens(parts());
  parallel_for(std::ssize(tokens), [&](int64_t part) {
    const ConstMatrixView columns = part_of(static_cast<size_t>(part));
    tokens[static_cast<size_t>(part)].rows = routed_rows(columns, columns);
  });
  add_parts(tokens, y, [&](size_t part) { return run(part, take_rows(part_of(part), tokens[part].rows)); });
}

void run_experts(const ExpertInputs& inputs, const ExpertOutputs& outputs, ConstMatrixView normed, MatrixView y) {
  const std::vector<PartTokens> tokens = inputs.assign(normed);
  add_parts(tokens, y, [&](size_t part) { return outputs.run(part, inputs.run(part, tokens[part], normed)); });
}

}  // namespace llmc
