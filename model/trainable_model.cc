#include "model/trainable_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "core/error.h"
#include "model/backward_kernels.h"
#include "model/kernels.h"
#include "model/trainable_parts.h"

namespace llmc {

struct TrainableModel::State {
  ModelConfig config;
  BlockTensors embeddings;  ///< of tokens, and of positions where they are learned
  std::vector<TrainableBlock> blocks;
  TrainableNorm embedding_norm;
  TrainableHead head;
  Matrix embedded;  ///< what the norm of the embeddings was given, where there is one

  SequenceRows sequences{{}};
  std::vector<int32_t> tokens;
  std::vector<Matrix> hidden;  ///< in front of each block, and after the last
  std::vector<BlockTape> tapes;  ///< of the blocks, or a single one
  BlockTape& tape(size_t block) { return tapes[std::min(block, tapes.size() - 1)]; }

  /// Calls body(row, token, position) for the rows of all sequences.
  template <typename Body>
  void for_each_token(const Body& body) const {
    for (const auto& [first, length] : sequences.ranges)
      for (int64_t position = 0; position < length; ++position) body(first + position, int64_t{tokens[static_cast<size_t>(first + position)]}, position);
  }
};

TrainableModel::TrainableModel(const ModelConfig& config, Precision precision, MatmulBackend backend, Activations activations) : state_(std::make_unique<State>(State{.config = config, .embeddings = {}, .blocks = {}, .embedding_norm = TrainableNorm(config), .head = TrainableHead(config, precision, backend), .embedded = {}, .tokens = {}, .hidden = {}, .tapes = {}})) {
  for (int64_t block = 0; block < config.layers; ++block) state_->blocks.emplace_back(config.at_block(block), precision, backend);
  state_->tapes.reserve(static_cast<size_t>(config.layers));
  state_->tapes.emplace_back();
  for (int64_t block = 1; block < config.layers && activations == Activations::kept; ++block) state_->tapes.emplace_back(&state_->tapes.front());
  state_->hidden.resize(static_cast<size_t>(config.layers) + 1);
}
TrainableModel::~TrainableModel() = default;
TrainableModel::TrainableModel(TrainableModel&&) noexcept = default;

void TrainableModel::set(int64_t block, const BlockTensors& values) {
  if (block >= 0) return state_->blocks[static_cast<size_t>(block)].set(values);
  for (const Role role : {Role::token_embedding, Role::position_embedding})
    if (const Matrix* matrix = values.find(role)) state_->embeddings(role) = *matrix;
  state_->embedding_norm.set(values, Role::embedding_norm);
  BlockTensors head;
  for (const auto& [place, matrix] : values)
    if (place.first == Role::final_norm || place.first == Role::output_head) head(place.first, place.second) = matrix;
  if (const Matrix* tokens = values.find(Role::token_embedding); tokens && state_->config.tied_head) head(Role::output_head) = *tokens;
  state_->head.set(head);
}

void TrainableModel::run(const SequenceRows& sequences, std::span<const int32_t> tokens) {
  State& s = *state_;
  assert(static_cast<int64_t>(tokens.size()) == sequences.rows);
  s.sequences = sequences;
  s.tokens.assign(tokens.begin(), tokens.end());
  for (Matrix& hidden : s.hidden)
    if (hidden.rows() != sequences.rows) hidden = Matrix(sequences.rows, s.config.hidden);
  const Matrix& table = s.embeddings.get(Role::token_embedding);
  const Matrix* positions = s.embeddings.find(Role::position_embedding);
  const auto scale = static_cast<float>(s.config.embedding_scale);
  std::ranges::fill(s.hidden[0].values(), 0.0f);
  s.for_each_token([&](int64_t row, int64_t token, int64_t position) {
    if (token < 0 || token >= table.rows()) throw Error(ErrorKind::input, fmt::format("token {}: outside the vocabulary of {}", token, table.rows()));
    std::ranges::copy(table.view().row_span(token), s.hidden[0].row(row));
    if (scale != 1)
      for (float& value : s.hidden[0].view().row_span(row)) value *= scale;
    if (!positions) return;
    if (position >= s.config.context) throw Error(ErrorKind::input, fmt::format("a sequence is longer than the {} positions of the model", s.config.context));
    add_to(s.hidden[0].view().row_span(row), positions->view().row_span(position + s.config.position_offset));
  });
  if (s.embedding_norm.is_there()) {
    s.embedded = s.hidden[0];
    s.embedding_norm.apply(s.embedded.view(), s.hidden[0].view());
  }
  for (size_t block = 0; block < s.blocks.size(); ++block) s.blocks[block].run(sequences, s.hidden[block].view(), s.hidden[block + 1].view(), s.tape(block));
}

ConstMatrixView TrainableModel::hidden() const { return std::as_const(state_->hidden.back()).view(); }

HeadLosses TrainableModel::backpropagate(const LossWeights& weights, const TrainableHead::Teacher& teacher, std::span<const int32_t> labels, GradientReader& reader, const HiddenLoss& hidden_loss, std::span<const AttentionTarget> attention) {
  State& s = *state_;
  Matrix d_hidden(s.sequences.rows, s.config.hidden);
  BlockTensors outer = reader.prepare(-1), of_head;
  const auto lend = [&](BlockTensors& from, BlockTensors& to, Role as) {
    for (const Part part : {Part::weight, Part::bias})
      if (Matrix* matrix = from.find(as, part)) to(as, part) = std::move(*matrix), from(as, part) = Matrix();
  };
  lend(outer, of_head, Role::final_norm);
  lend(outer, of_head, Role::output_head);
  Matrix* d_table = outer.find(Role::token_embedding);
  if (d_table && s.config.tied_head) of_head(Role::output_head) = Matrix(d_table->rows(), d_table->cols());
  HeadLosses losses = s.head.backpropagate(s.sequences, std::as_const(s.hidden.back()).view(), weights, teacher, labels, d_hidden.view(), of_head);
  lend(of_head, outer, Role::final_norm);
  if (!d_table || !s.config.tied_head) lend(of_head, outer, Role::output_head);

  Matrix* d_positions = outer.find(Role::position_embedding);
  const bool d_norm = outer.find(Role::embedding_norm) || outer.find(Role::embedding_norm, Part::bias);
  const double attention_share = 1 / static_cast<double>(std::max<int64_t>(1, s.sequences.tokens() * s.config.heads * s.config.layers));
  for (size_t block = s.blocks.size(); block-- > 0;) {
    if (hidden_loss) hidden_loss(static_cast<int64_t>(block) + 1, std::as_const(s.hidden[block + 1]).view(), d_hidden.view());
    if (s.tapes.size() < s.blocks.size() && block + 1 < s.blocks.size()) s.blocks[block].run(s.sequences, s.hidden[block].view(), s.hidden[block + 1].view(), s.tape(block));
    const bool goes_on = block > 0 || d_table || d_positions || d_norm;
    BlockTensors gradients = reader.prepare(static_cast<int64_t>(block));
    losses.attention += attention_share * s.blocks[block].backpropagate(s.sequences, std::as_const(s.hidden[block]).view(), std::as_const(d_hidden).view(), s.tape(block), goes_on ? d_hidden.view() : MatrixView{}, gradients, attention.empty() ? nullptr : &attention[block], static_cast<float>(weights.attention * attention_share));
    reader.take(static_cast<int64_t>(block), std::move(gradients));
  }
  if (d_table && s.config.tied_head) add_to(d_table->values(), of_head.get(Role::output_head).values());
  if (s.embedding_norm.is_there()) {
    NormGradients norm(outer, Role::embedding_norm, 1, s.config.hidden);
    s.embedding_norm.apply_back(std::as_const(s.embedded).view(), d_hidden.view(), norm.weight_share(0), norm.bias_share(0));
    norm.finish();
  }
  const auto scale = static_cast<float>(s.config.embedding_scale);
  s.for_each_token([&](int64_t row, int64_t token, int64_t position) {
    if (d_table) add_scaled(d_table->view().row_span(token), scale, std::as_const(d_hidden).view().row_span(row));
    if (d_positions) add_to(d_positions->view().row_span(position + s.config.position_offset), std::as_const(d_hidden).view().row_span(row));
  });
  reader.take(-1, std::move(outer));
  return losses;
}

}  // namespace llmc
