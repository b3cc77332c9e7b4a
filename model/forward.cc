#include "model/forward.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <optional>

#include "core/error.h"
#include "core/parallel.h"
#include "core/pooled_memory.h"
#include "model/attention.h"
#include "model/block_weights.h"
#include "model/fused_heads.h"
#include "model/kernels.h"
#include "model/kv_cache.h"
#include "model/rotary_table.h"

namespace llmc {
struct Forward::State {
  State(const Model& of, const ForwardOptions& with) : model(of), options(with) {}

  const Model& model;
  ForwardOptions options;
  TensorRows tokens;                  ///< [vocabulary, width of embeddings]
  std::optional<Linear> projection;   ///< from there to hidden states, or none
  TensorRows positions;               ///< [context and what is in front of it, hidden], or none
  std::optional<NormWeights> embedding_norm;
  std::vector<std::pair<Rope, std::unique_ptr<const RotaryTable>>> rotary;  ///< of the model's blocks

  /// nullptr where positions are not rotary.
  const RotaryTable* find_rotary(const ModelConfig& of_block) const {
    for (const auto& [rope, table] : rotary)
      if (rope == of_block.rope) return table.get();
    return nullptr;
  }
};

Forward::Forward(const Model& model, const ForwardOptions& options) : state_(std::make_unique<State>(model, options)) {
  const ModelConfig& config = model.config();
  state_->tokens = TensorRows(model.get(Role::token_embedding));
  state_->projection = find_linear(model, Role::embedding_projection, options);
  if (config.positions == Positions::learned) state_->positions = TensorRows(model.get(Role::position_embedding));
  state_->embedding_norm = find_norm(model, Role::embedding_norm, -1);
  if (config.positions != Positions::rope) return;
  for (const Rope& rope : {config.rope, config.window_rope})
    if (std::ranges::find(state_->rotary, rope, [](const auto& entry) { return entry.first; }) == state_->rotary.end()) state_->rotary.emplace_back(rope, std::make_unique<const RotaryTable>(rope, config.head_dim));
}

Forward::~Forward() = default;

void Forward::embed(std::span<const int32_t> tokens, MatrixView hidden) const {
  const auto count = static_cast<int64_t>(tokens.size());
  assert(hidden.rows == count);
  if (const int64_t most = state_->model.config().context; state_->positions.rows() > 0 && count > most)
    throw Error(ErrorKind::input, fmt::format("a sequence of {} tokens is longer than the model's {} positions", count, most));
  for (int64_t r = 0; r < count; ++r) embed_next(tokens.subspan(static_cast<size_t>(r), 1), r, hidden.row_range(r, 1));
}

void Forward::embed_next(std::span<const int32_t> tokens, int64_t position, MatrixView hidden) const {
  const TensorRows& table = state_->tokens;
  const TensorRows& positions = state_->positions;
  const Scratch narrow(state_->projection ? hidden.rows : 0, table.cols());
  std::vector<float> of_position(static_cast<size_t>(positions.cols()));
  const ModelConfig& config = state_->model.config();
  if (!of_position.empty() && position >= config.context) throw Error(ErrorKind::input, fmt::format("a sequence is longer than the model's {} positions", config.context));
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= table.rows()) throw Error(ErrorKind::input, fmt::format("token id {} at position {} is outside the vocabulary of {}", tokens[i], position, table.rows()));
    const std::span<float> row = (state_->projection ? narrow.view() : hidden).row_span(static_cast<int64_t>(i));
    table.read(tokens[i], row);
    if (config.embedding_scale != 1)
      for (float& value : row) value *= static_cast<float>(config.embedding_scale);
  }
  if (state_->projection) state_->projection->apply(narrow.view(), hidden);
  if (!of_position.empty()) positions.read(position + config.position_offset, of_position);
  for (int64_t r = 0; r < hidden.rows && !of_position.empty(); ++r) add_to(hidden.row_span(r), of_position);
  if (state_->embedding_norm) state_->embedding_norm->apply(hidden, hidden);
}

std::shared_ptr<const BlockWeights> Forward::load_block(int64_t block) const {
  return std::make_shared<const BlockWeights>(state_->model, block, state_->options);
}

std::shared_ptr<const HeadWeights> Forward::load_head(const HeadWeights* other) const { return std::make_shared<const HeadWeights>(state_->model, state_->options, other); }

namespace {

void add(MatrixView y, ConstMatrixView x) {
  for_each_row(y.rows, [&](int64_t r) { add_to(y.row_span(r), x.row_span(r)); });
}

/// Queries, keys and values [T, …] of the normalized hidden states [T, hidden], by one matrix; `all` holds the three side by side.
void project_fused(const ModelConfig& config, const Linear& fused, ConstMatrixView normed, MatrixView all, MatrixView q, MatrixView k, MatrixView v) {
  if (config.fused_order == FusedOrder::parts) return fused.apply(normed, all);
  const Scratch projected(normed.rows, all.cols);
  fused.apply(normed, projected.view());
  split_fused(config, projected.view(), q, k, v);
}

/// Queries, keys and values of one sequence as `attend` takes them.
struct Projected {
  Scratch memory;
  MatrixView q, k, v;
};

/// Of the normalized hidden states [T, hidden].
Projected project(const ModelConfig& config, const StageWeights& stage, const RotaryTable* rotary, ConstMatrixView normed) {
  const int64_t length = normed.rows;
  const int64_t rows = (length + attention_tile - 1) / attention_tile * attention_tile;
  const int64_t query_width = config.query_width(), kv_width = config.kv_width();
  Scratch projected(rows, query_width + 2 * kv_width);
  MatrixView q = projected.view().column_range(0, query_width);
  MatrixView k = projected.view().column_range(query_width, kv_width);
  MatrixView v = projected.view().column_range(query_width + kv_width, kv_width);
  if (stage.joined) {
    stage.joined->apply(normed, projected.view().row_range(0, length));
  } else if (const Linear* fused = stage.find(Role::query_key_value)) {
    project_fused(config, *fused, normed, projected.view().row_range(0, length), q, k, v);
  } else {  // one after the other in the same memory
    q = {projected.view().data, rows, query_width, query_width};
    k = {q.data + rows * query_width, rows, kv_width, kv_width};
    v = {k.data + rows * kv_width, rows, kv_width, kv_width};
    stage.get(Role::query).apply(normed, q.row_range(0, length));
    stage.get(Role::key).apply(normed, k.row_range(0, length));
    stage.get(Role::value).apply(normed, v.row_range(0, length));
  }
  for (const MatrixView& part : {q, k, v})
    for (int64_t r = length; r < rows; ++r) std::ranges::fill(part.row_span(r), 0.0f);
  stage.query_norms->apply(q.row_range(0, length));
  stage.key_norms->apply(k.row_range(0, length));
  if (rotary) {
    rotary->rotate(q.row_range(0, length));
    rotary->rotate(k.row_range(0, length));
  }
  return {.memory = std::move(projected), .q = q, .k = k, .v = v};
}

/// context [T, query_width] of the normalized hidden states [T, hidden]; fills the cache unless nullptr.
void run_attention(const ModelConfig& config, const ForwardOptions& options, const StageWeights& stage, const RotaryTable* rotary, ConstMatrixView normed, MatrixView context, KeyValueCache* cache) {
  const auto [memory, q, k, v] = project(config, stage, rotary, normed);
  const int64_t length = normed.rows, rows = q.rows;
  if (options.kv_cache_bits)
    for (const MatrixView& part : {k, v}) round_cache(part.row_range(0, length), config.head_dim, *options.kv_cache_bits);
  if (cache) cache->fill(k.row_range(0, length), v.row_range(0, length));
  if (rows == length) return attend(config, options.backend, options.precision, length, q, k, v, context);
  const Scratch padded(rows, config.query_width());
  attend(config, options.backend, options.precision, length, q, k, v, padded.view());
  for_each_row(length, [&](int64_t r) { std::ranges::copy(padded.view().row_span(r), context.row(r)); });
}

/// context [sequences, query_width] of one more position of each.
void run_attention_next(const ModelConfig& config, const StageWeights& stage, const RotaryTable* rotary, ConstMatrixView normed, KeyValueCache& cache, MatrixView context) {
  const int64_t query_width = config.query_width(), kv_width = config.kv_width();
  const Scratch projected(normed.rows, query_width + 2 * kv_width);
  const MatrixView q = projected.view().column_range(0, query_width), k = projected.view().column_range(query_width, kv_width), v = projected.view().column_range(query_width + kv_width, kv_width);
  if (stage.joined) {
    stage.joined->apply(normed, projected.view());
  } else if (const Linear* fused = stage.find(Role::query_key_value)) {
    project_fused(config, *fused, normed, projected.view(), q, k, v);
  } else {
    stage.get(Role::query).apply(normed, q);
    stage.get(Role::key).apply(normed, k);
    stage.get(Role::value).apply(normed, v);
  }
  stage.query_norms->apply(q);
  stage.key_norms->apply(k);
  for (int64_t r = 0; rotary && r < normed.rows; ++r) {
    rotary->rotate_row(q.row_span(r), cache.length());
    rotary->rotate_row(k.row_span(r), cache.length());
  }
  cache.attend_next(q, k, v, context);
}

/// activation [T, ffn] of the normalized hidden states [T, hidden].
void run_feed_forward(const ModelConfig& config, const StageWeights& stage, ConstMatrixView normed, MatrixView activation) {
  if (stage.expert_inputs) return stage.expert_inputs->run_all(normed, activation);
  if (stage.joined) return stage.joined->apply(normed, activation);
  if (const Linear* both = stage.find(Role::ffn_gate_up)) {
    const Scratch gate_up(normed.rows, 2 * config.ffn);
    both->apply(normed, gate_up.view());
    const MatrixView gate = gate_up.view().column_range(0, config.ffn), up = gate_up.view().column_range(config.ffn, config.ffn);
    return for_each_row(normed.rows, [&](int64_t r) {
      std::ranges::copy(gate.row_span(r), activation.row(r));
      activate(config.activation, activation.row_span(r));
      multiply_by(activation.row_span(r), up.row_span(r));
    });
  }
  const Linear* gate = stage.find(Role::ffn_gate);
  if (!gate) {
    stage.get(Role::ffn_up).apply(normed, activation);
    for_each_row(normed.rows, [&](int64_t r) { activate(config.activation, activation.row_span(r)); });
    return;
  }
  const Scratch up(normed.rows, config.ffn);
  stage.get(Role::ffn_up).apply(normed, up.view());
  gate->apply(normed, activation);
  for_each_row(normed.rows, [&](int64_t r) {
    activate(config.activation, activation.row_span(r));
    multiply_by(activation.row_span(r), up.view().row_span(r));
  });
}

}  // namespace

std::shared_ptr<const BlockEntry> Forward::load_entry(int64_t block) const { return std::make_shared<const BlockEntry>(state_->model, Role::attention_norm, block); }

std::shared_ptr<const BlockEntry> Forward::load_head_entry() const {
  BlockEntry entry(state_->model, Role::final_norm, -1);
  entry.projection = find_linear(state_->model, Role::head_projection, state_->options);
  return std::make_shared<const BlockEntry>(std::move(entry));
}

void Forward::enter_block(const BlockEntry& entry, ConstMatrixView hidden, MatrixView input) const {
  if (!entry.projection) return apply(entry.norm, hidden, input);
  const Scratch normed(hidden.rows, hidden.cols);
  apply(entry.norm, hidden, normed.view());
  entry.projection->apply(normed.view(), input);
}

std::shared_ptr<const StageWeights> Forward::load_stage(int64_t block, Tap tap) const { return std::make_shared<const StageWeights>(state_->model, block, tap, state_->options); }

void Forward::run_stage(const StageWeights& stage, ConstMatrixView input, MatrixView hidden, MatrixView next_input) const {
  const ModelConfig& config = stage.config;
  assert(input.cols == get_width(stage.tap, config) && hidden.cols == config.hidden);
  const auto add_change = [&](Role role) {
    if (!stage.expert_outputs && !stage.output_norm) return stage.get(role).add(input, hidden);
    const Scratch change(hidden.rows, hidden.cols);
    if (stage.expert_outputs) stage.expert_outputs->run_all(input, change.view());
    else stage.get(role).apply(input, change.view());
    if (stage.output_norm && config.norms_before_sum) stage.output_norm->apply(change.view(), change.view());
    add(hidden, change.view());
    if (stage.output_norm && !config.norms_before_sum) stage.output_norm->apply(hidden, hidden);
  };
  switch (stage.tap) {
    case Tap::attention_input: return run_attention(config, state_->options, stage, state_->find_rotary(config), input, next_input, nullptr);
    case Tap::attention_context:
      if (config.parallel) apply(stage.next_norm, hidden, next_input);
      add_change(Role::attention_output);
      if (!config.parallel) apply(stage.next_norm, hidden, next_input);
      return;
    case Tap::ffn_input: return run_feed_forward(config, stage, input, next_input);
    case Tap::ffn_activation: return add_change(Role::ffn_down);
  }
}

/// The last two stages of a block with experts.
static void run_expert_stages(const StageWeights& first, const StageWeights& last, ConstMatrixView normed, MatrixView hidden) {
  const Scratch change(hidden.rows, hidden.cols);
  run_experts(*first.expert_inputs, *last.expert_outputs, normed, change.view());
  if (last.output_norm) last.output_norm->apply(change.view(), change.view());
  add(hidden, change.view());
}

/// The last two stages of a block whose gated unit goes on to the next product as it is made. False, and nothing done, of others.
static bool add_gated_unit(const StageWeights& first, const StageWeights& last, ConstMatrixView normed, MatrixView hidden) {
  return first.joined && !last.output_norm && first.joined->add_through(last.get(Role::ffn_down), normed, hidden);
}

void Forward::run_block(const BlockWeights& block, MatrixView hidden, KeyValueCache* cache) const {
  const ModelConfig& config = state_->model.config();
  assert(hidden.cols == config.hidden);
  Scratch input(hidden.rows, hidden.cols);
  enter_block(block.entry, hidden, input.view());
  for (size_t i = 0; i < all_taps.size(); ++i) {
    if (block.stages[i].expert_inputs) return run_expert_stages(block.stages[i], block.stages[i + 1], input.view(), hidden);
    if (all_taps[i] == Tap::ffn_input && add_gated_unit(block.stages[i], block.stages[i + 1], input.view(), hidden)) return;
    const bool is_last = i + 1 == all_taps.size();
    Scratch next(is_last ? 0 : hidden.rows, is_last ? 0 : get_width(all_taps[i + 1], config));
    if (const StageWeights& stage = block.stages[i]; cache && i == 0) run_attention(stage.config, state_->options, stage, state_->find_rotary(stage.config), input.view(), next.view(), cache);
    else run_stage(stage, input.view(), hidden, next.view());
    input = std::move(next);
  }
}

void Forward::read_attention(const BlockWeights& block, ConstMatrixView hidden, MatrixView q, MatrixView k) const {
  const Scratch input(hidden.rows, hidden.cols);
  enter_block(block.entry, hidden, input.view());
  const StageWeights& stage = block.stages[0];
  const Projected projected = project(stage.config, stage, state_->find_rotary(stage.config), input.view());
  for (int64_t r = 0; r < hidden.rows; ++r) {
    std::ranges::copy(projected.q.row_span(r), q.row(r));
    std::ranges::copy(projected.k.row_span(r), k.row(r));
  }
}

void Forward::run_block_next(const BlockWeights& block, MatrixView hidden, KeyValueCache& cache) const {
  const ModelConfig& config = state_->model.config();
  const Scratch input(hidden.rows, hidden.cols), context(hidden.rows, config.query_width()), normed(hidden.rows, hidden.cols), activation(hidden.rows, config.experts > 0 ? 0 : config.ffn);
  enter_block(block.entry, hidden, input.view());
  run_attention_next(block.stages[0].config, block.stages[0], state_->find_rotary(block.stages[0].config), input.view(), cache, context.view());
  run_stage(block.stages[1], context.view(), hidden, normed.view());
  if (config.experts > 0) return run_expert_stages(block.stages[2], block.stages[3], normed.view(), hidden);
  run_stage(block.stages[2], normed.view(), hidden, activation.view());
  run_stage(block.stages[3], activation.view(), hidden, {});
}

void Forward::run_head(const HeadWeights& head, ConstMatrixView hidden, MatrixView logits) const {
  const Scratch input(hidden.rows, state_->model.config().embedding_width());
  enter_block(head.entry, hidden, input.view());
  head.output->apply(input.view(), logits);
  if (head.cap > 0) for_each_row(logits.rows, [&](int64_t r) { cap_values(head.cap, logits.row_span(r)); });
}

Matrix compute_logits(const Model& model, std::span<const int32_t> tokens, const ForwardOptions& options) {
  const Forward forward(model, options);
  Matrix hidden(static_cast<int64_t>(tokens.size()), model.config().hidden);
  forward.embed(tokens, hidden.view());
  for (int64_t block = 0; block < model.config().layers; ++block) forward.run_block(*forward.load_block(block), hidden.view());
  Matrix logits(hidden.rows(), model.config().vocabulary);
  forward.run_head(*forward.load_head(), hidden.view(), logits.view());
  return logits;
}

}  // namespace llmc
