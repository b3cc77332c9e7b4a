#include "model/backward.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <numeric>
#include <optional>
#include <utility>

#include "core/error.h"
#include "model/backward_kernels.h"
#include "model/fused_heads.h"
#include "model/kernels.h"
#include "model/rotary_table.h"
#include "model/trainable_parts.h"

namespace llmc {
namespace {

constexpr int64_t tile = trainable_tile;
static_assert(attention_tile % tile == 0);

/// A matrix that keeps its memory when its shape comes back, and is written before it is read.
class Buffer {
 public:
  MatrixView resize(int64_t rows, int64_t cols) {
    const auto count = static_cast<size_t>(rows * cols);
    if (count > capacity_) values_ = std::make_unique_for_overwrite<float[]>(count), capacity_ = count;
    return view_ = {values_.get(), rows, cols, cols};
  }
  const MatrixView& view() const { return view_; }

 private:
  std::unique_ptr<float[]> values_;
  size_t capacity_ = 0;
  MatrixView view_;
};

void add_rows(MatrixView y, ConstMatrixView x) {
  for (int64_t r = 0; r < y.rows; ++r) add_to(y.row_span(r), x.row_span(r));
}

}  // namespace

SequenceRows::SequenceRows(std::span<const int64_t> lengths) {
  for (const int64_t length : lengths) {
    ranges.push_back({rows, length});
    rows += (length + attention_tile - 1) / attention_tile * attention_tile;
  }
}

int64_t SequenceRows::tokens() const {
  return std::accumulate(ranges.begin(), ranges.end(), int64_t{0}, [](int64_t sum, const Range& range) { return sum + range.length; });
}

void check_trainable(const Model& model, const std::string& where) {
  const auto& rows = model.architecture().config;
  const auto refuse = [&](const char* key, const char* what) { throw Error(ErrorKind::usage, fmt::format("{}: field \"{}\": {} {}, and llmc has no gradient through them; methods without gradients work on such models", where, key, model.architecture().causal_class, what)); };
  const auto key_of = [&](bool ModelConfig::* flag) { return std::ranges::find(rows, flag, &ConfigRow::flag)->key; };
  if (!model.config().norms_before_sum) refuse(key_of(&ModelConfig::norms_before_sum), "has norms of the sums behind its sublayers");
  if (model.config().projects_embedding) refuse(std::ranges::find(rows, &ModelConfig::embedding, &ConfigRow::count)->key, "has matrices between embeddings and hidden states");
  if (model.config().own_head_norms) refuse(key_of(&ModelConfig::own_head_norms), "has a norm of each head's own");
  const auto row = std::ranges::find(rows, &ModelConfig::experts, &ConfigRow::count);
  if (model.config().experts > 0) throw Error(ErrorKind::usage, fmt::format("{}: field \"{}\": {} sends each token to {} of {} experts, and llmc has no gradient through them; methods without gradients work on such models", where, row->key, model.architecture().causal_class, model.config().experts_per_token, model.config().experts));
}

BlockTensors read_block(const Model& model, int64_t block) {
  BlockTensors tensors;
  if (block >= 0 && (model.config().experts > 0 || model.config().own_head_norms || !model.config().norms_before_sum)) throw Error(ErrorKind::bug, fmt::format("block {} has a part that has no gradient", block));
  for (const PlacedTensor& placed : model.tensors())
    if (placed.block == block) tensors(placed.row->role, placed.part) = read_matrix(*placed.tensor);
  return tensors;
}

struct BlockTape::Buffers {
  /// What no other block needs later.
  struct Shared {
    Buffer active, d_ffn, d_middle, d_ffn_input, d_attention, d_context, d_query_key_value, d_fused;
  };
  Buffer attention_normed, unnormed_query, unnormed_key, query_key_value, context, unnormed_attention, middle, ffn_normed, gate_up, unnormed_ffn;
  std::shared_ptr<Shared> shared = std::make_shared<Shared>();
};

BlockTape::BlockTape() : buffers_(std::make_unique<Buffers>()) {}
BlockTape::BlockTape(const BlockTape* other) : BlockTape() { buffers_->shared = other->buffers_->shared; }
BlockTape::~BlockTape() = default;
BlockTape::BlockTape(BlockTape&&) noexcept = default;
BlockTape& BlockTape::operator=(BlockTape&&) noexcept = default;

struct TrainableBlock::Weights {
  ModelConfig config;
  Precision precision = Precision::f32;
  MatmulBackend backend = MatmulBackend::eigen;
  std::optional<RotaryTable> rotary;
  TrainableNorm attention_norm, query_norm, key_norm, attention_output_norm, ffn_norm, ffn_output_norm;
  std::map<Role, TrainableLinear> linears;

  explicit Weights(const ModelConfig& of) : config(of), attention_norm(of), query_norm(of), key_norm(of), attention_output_norm(of), ffn_norm(of), ffn_output_norm(of) {}
  std::array<std::pair<Role, TrainableNorm*>, 6> norms() {
    return {{{Role::attention_norm, &attention_norm}, {Role::query_norm, &query_norm}, {Role::key_norm, &key_norm}, {Role::attention_output_norm, &attention_output_norm}, {Role::ffn_norm, &ffn_norm}, {Role::ffn_output_norm, &ffn_output_norm}}};
  }
  bool has_head_norms() const { return query_norm.is_there(); }

  bool is_fused() const { return linears.contains(Role::query_key_value); }
  /// Whether queries, keys and values are columns of what the fused weight makes.
  bool has_parts() const { return is_fused() && config.fused_order == FusedOrder::parts; }
  bool has_gate_up() const { return linears.contains(Role::ffn_gate_up); }
  /// Whether attention and feed-forward read what one norm gives.
  bool has_shared_norm() const { return config.parallel && !ffn_norm.is_there(); }
  bool is_gated() const { return config.feed_forward == FeedForward::gated; }
  void apply(Role role, ConstMatrixView x, MatrixView y) const { linears.at(role).forward.apply(x, y); }
  void apply_back(Role role, ConstMatrixView d_y, MatrixView d_x) const { linears.at(role).backward.apply(d_y, d_x); }

  /// Gate and up in a buffer: columns of one matrix as a fused weight makes them, or two matrices one after the other. Without a gate
  /// it is empty.
  std::pair<MatrixView, MatrixView> split_ffn(MatrixView all) const {
    if (has_gate_up()) return {all.column_range(0, config.ffn), all.column_range(config.ffn, config.ffn)};
    const MatrixView gate{all.data, is_gated() ? all.rows : 0, config.ffn, config.ffn};
    return {gate, {all.data + gate.rows * config.ffn, all.rows, config.ffn, config.ffn}};
  }

  /// The parts of a buffer of queries, keys and values: columns of one matrix as a fused weight makes them, or three
  /// matrices one after the other.
  AttentionOperands<MatrixView> split(MatrixView all) const {
    const int64_t query = config.query_width(), kv = config.kv_width();
    if (has_parts()) return {all.column_range(0, query), all.column_range(query, kv), all.column_range(query + kv, kv)};
    const MatrixView q{all.data, all.rows, query, query};
    const MatrixView k{q.data + all.rows * query, all.rows, kv, kv};
    return {q, k, {k.data + all.rows * kv, all.rows, kv, kv}};
  }

  /// Adds the gradients of a weight and its bias that are asked for.
  void add_gradients(Role role, ConstMatrixView d_y, ConstMatrixView x, BlockTensors& gradients) const {
    if (Matrix* weight = gradients.find(role)) add_weight_gradient(backend, precision, d_y, x, weight->view());
    if (Matrix* bias = gradients.find(role, Part::bias)) add_column_sums(d_y, *bias);
  }
};

TrainableBlock::TrainableBlock(const ModelConfig& config, Precision precision, MatmulBackend backend) : weights_(std::make_unique<Weights>(config)) {
  weights_->precision = precision;
  weights_->backend = backend;
  if (config.positions == Positions::rope) weights_->rotary.emplace(config.rope, config.head_dim);
}

TrainableBlock::~TrainableBlock() = default;
TrainableBlock::TrainableBlock(TrainableBlock&&) noexcept = default;

void TrainableBlock::set(const BlockTensors& values) {
  Weights& w = *weights_;
  const auto norms = w.norms();
  for (const auto& [role, norm] : norms) norm->set(values, role);
  for (const auto& [place, matrix] : values) {
    const auto [role, part] = place;
    if (part == Part::bias || std::ranges::find(norms, role, [](const auto& entry) { return entry.first; }) != norms.end() || matrix.empty()) continue;  // a bias goes with its weight
    w.linears.insert_or_assign(role, TrainableLinear(matrix, values.find(role, Part::bias), w.precision, w.backend));
  }
}

void TrainableBlock::run(const SequenceRows& sequences, ConstMatrixView hidden, MatrixView out, BlockTape& tape) const {
  const Weights& w = *weights_;
  const ModelConfig& config = w.config;
  BlockTape::Buffers& kept = *tape.buffers_;
  const int64_t rows = sequences.rows;
  assert(hidden.rows == rows && out.rows == rows && hidden.cols == config.hidden && out.cols == config.hidden);

  const MatrixView normed = kept.attention_normed.resize(rows, config.hidden);
  const MatrixView projected = kept.query_key_value.resize(rows, config.query_width() + 2 * config.kv_width());
  const auto operands = w.split(projected);
  const MatrixView unnormed_query = kept.unnormed_query.resize(w.has_head_norms() ? rows : 0, config.query_width());
  const MatrixView unnormed_key = kept.unnormed_key.resize(w.has_head_norms() ? rows : 0, config.kv_width());
  for_each_tile(rows, [&](int64_t first, int64_t count) {
    const auto part = [&](auto matrix) { return matrix.row_range(first, count); };
    w.attention_norm.apply(part(hidden), part(normed));
    if (w.has_parts()) return w.apply(Role::query_key_value, part(normed), part(projected));
    if (w.is_fused()) {
      const MatrixView fused = scratch_tile<2>(count, projected.cols);
      w.apply(Role::query_key_value, part(normed), fused);
      return split_fused(config, fused, part(operands.q), part(operands.k), part(operands.v));
    }
    w.apply(Role::value, part(normed), part(operands.v));
    w.apply(Role::query, part(normed), part(w.has_head_norms() ? unnormed_query : operands.q));
    w.apply(Role::key, part(normed), part(w.has_head_norms() ? unnormed_key : operands.k));
    if (!w.has_head_norms()) return;
    w.query_norm.apply_to_heads(part(unnormed_query), part(operands.q));
    w.key_norm.apply_to_heads(part(unnormed_key), part(operands.k));
  });

  const MatrixView context = kept.context.resize(rows, config.query_width());
  for (size_t s = 0; s < sequences.ranges.size(); ++s) {
    const auto [first, length] = sequences.ranges[s];
    const int64_t end = s + 1 < sequences.ranges.size() ? sequences.ranges[s + 1].first : rows;
    for (const MatrixView& part : {operands.q, operands.k, operands.v})
      for (int64_t r = first + length; r < end; ++r) std::ranges::fill(part.row_span(r), 0.0f);
    if (w.rotary) {
      w.rotary->rotate(operands.q.row_range(first, length));
      w.rotary->rotate(operands.k.row_range(first, length));
    }
    const auto of_sequence = [&, first = first](auto matrix) { return matrix.row_range(first, end - first); };
    attend(config, w.backend, w.precision, length, of_sequence(operands.q), of_sequence(operands.k), of_sequence(operands.v), of_sequence(context));
  }

  const auto resize_if = [&](Buffer& buffer, bool is_there) { return buffer.resize(is_there ? rows : 0, config.hidden); };
  const MatrixView unnormed_attention = resize_if(kept.unnormed_attention, w.attention_output_norm.is_there());
  const MatrixView middle = kept.middle.resize(rows, config.hidden);
  const MatrixView ffn_normed = kept.ffn_normed.resize(rows, config.hidden);
  const MatrixView gate_up = kept.gate_up.resize(rows, w.is_gated() ? 2 * config.ffn : config.ffn);
  const auto [gate, up] = w.split_ffn(gate_up);
  const MatrixView active = kept.shared->active.resize(rows, config.ffn);
  const MatrixView unnormed_ffn = resize_if(kept.unnormed_ffn, w.ffn_output_norm.is_there());
  for_each_tile(rows, [&, gate = gate, up = up](int64_t first, int64_t count) {
    const auto part = [&](auto matrix) { return matrix.row_range(first, count); };
    const auto apply_and_norm = [&](Role role, const TrainableNorm& norm, MatrixView x, MatrixView unnormed, MatrixView y) {
      if (!norm.is_there()) return w.apply(role, part(x), part(y));
      w.apply(role, part(x), part(unnormed));
      norm.apply(part(unnormed), part(y));
    };
    apply_and_norm(Role::attention_output, w.attention_output_norm, context, unnormed_attention, middle);
    add_rows(part(middle), part(hidden));
    w.ffn_norm.apply(w.has_shared_norm() ? ConstMatrixView(part(normed)) : config.parallel ? part(hidden) : ConstMatrixView(part(middle)), part(ffn_normed));
    if (w.has_gate_up()) {
      w.apply(Role::ffn_gate_up, part(ffn_normed), part(gate_up));
    } else {
      w.apply(Role::ffn_up, part(ffn_normed), part(up));
      if (w.is_gated()) w.apply(Role::ffn_gate, part(ffn_normed), part(gate));
    }
    for (int64_t r = first; r < first + count; ++r) {
      std::ranges::copy(w.is_gated() ? gate.row_span(r) : up.row_span(r), active.row(r));
      activate(config.activation, active.row_span(r));
      if (w.is_gated()) multiply_by(active.row_span(r), up.row_span(r));
    }
    apply_and_norm(Role::ffn_down, w.ffn_output_norm, active, unnormed_ffn, out);
    add_rows(part(out), part(middle));
  });
}

double TrainableBlock::backpropagate(const SequenceRows& sequences, ConstMatrixView hidden, ConstMatrixView d_out, BlockTape& tape, MatrixView d_hidden, BlockTensors& gradients, const AttentionTarget* attention, float attention_weight) const {
  const Weights& w = *weights_;
  const ModelConfig& config = w.config;
  BlockTape::Buffers& kept = *tape.buffers_;
  BlockTape::Buffers::Shared& work = *kept.shared;
  const int64_t rows = sequences.rows;
  const int64_t tiles = (rows + tile - 1) / tile;
  assert(hidden.rows == rows && d_out.rows == rows && kept.middle.view().rows == rows);

  // The feed-forward part, whose gradients take the place of what they are gradients of, and the output of attention. With a norm
  // behind a sublayer, the gradient of what it is given is kept beside that of the sum.
  const MatrixView middle = kept.middle.view(), gate_up = kept.gate_up.view();
  const auto [gate, up] = w.split_ffn(gate_up);
  const MatrixView active = work.active.resize(rows, config.ffn);  // computed again
  const MatrixView d_middle = work.d_middle.resize(rows, config.hidden);
  const MatrixView d_ffn_input = config.parallel ? work.d_ffn_input.resize(rows, config.hidden) : d_middle;
  const MatrixView d_context = work.d_context.resize(rows, config.query_width());
  const MatrixView d_ffn_of_norm = work.d_ffn.resize(w.ffn_output_norm.is_there() ? rows : 0, config.hidden), d_attention_of_norm = work.d_attention.resize(w.attention_output_norm.is_there() ? rows : 0, config.hidden);
  const ConstMatrixView d_ffn = w.ffn_output_norm.is_there() ? ConstMatrixView(d_ffn_of_norm) : d_out, d_attention = w.attention_output_norm.is_there() ? d_attention_of_norm : d_middle;
  NormGradients ffn_norm(gradients, Role::ffn_norm, tiles, config.hidden), ffn_output_norm(gradients, Role::ffn_output_norm, tiles, config.hidden), attention_output_norm(gradients, Role::attention_output_norm, tiles, config.hidden);
  for_each_tile(rows, [&, gate = gate, up = up](int64_t first, int64_t count) {
    const auto part = [&](auto matrix) { return matrix.row_range(first, count); };
    const auto copy = [&](ConstMatrixView from, MatrixView to) {
      for (int64_t r = 0; r < count; ++r) std::ranges::copy(from.row_span(r), to.row(r));
    };
    if (w.ffn_output_norm.is_there()) {
      copy(part(d_out), part(d_ffn_of_norm));
      w.ffn_output_norm.apply_back(part(kept.unnormed_ffn.view()), part(d_ffn_of_norm), ffn_output_norm.weight_share(first / tile), ffn_output_norm.bias_share(first / tile));
    }
    const MatrixView d_active = scratch_tile<2>(count, config.ffn);
    const MatrixView other = scratch_tile<3>(count, std::max(config.ffn, config.hidden));
    w.apply_back(Role::ffn_down, part(d_ffn), d_active);
    for (int64_t r = 0; r < count; ++r) {
      const std::span<float> slope = other.row_span(r).first(static_cast<size_t>(config.ffn)), of_up = up.row_span(first + r), d = d_active.row_span(r), of_active = active.row_span(first + r);
      if (!w.is_gated()) {
        activate_with_slope(config.activation, of_up, of_active, of_up);
        multiply_by(of_up, d);
        continue;
      }
      const std::span<float> of_gate = gate.row_span(first + r);
      activate_with_slope(config.activation, of_gate, of_gate, slope);
      std::ranges::copy(of_gate, of_active.begin());
      multiply_by(of_active, of_up);
      multiply_by(slope, of_up);
      multiply_by(slope, d);
      std::ranges::copy(of_gate, of_up.begin());
      multiply_by(of_up, d);
      std::ranges::copy(slope, of_gate.begin());
    }
    if (w.has_gate_up()) {
      w.apply_back(Role::ffn_gate_up, part(gate_up), part(d_ffn_input));
    } else {
      w.apply_back(Role::ffn_up, part(up), part(d_ffn_input));
      if (w.is_gated()) {
        const MatrixView from_gate{other.data, count, config.hidden, config.hidden};
        w.apply_back(Role::ffn_gate, part(gate), from_gate);
        add_rows(part(d_ffn_input), from_gate);
      }
    }
    w.ffn_norm.apply_back(config.parallel ? part(hidden) : ConstMatrixView(part(middle)), part(d_ffn_input), ffn_norm.weight_share(first / tile), ffn_norm.bias_share(first / tile));
    if (config.parallel) copy(part(d_out), part(d_middle));
    else add_rows(part(d_middle), part(d_out));
    if (w.attention_output_norm.is_there()) {
      copy(part(d_middle), part(d_attention_of_norm));
      w.attention_output_norm.apply_back(part(kept.unnormed_attention.view()), part(d_attention_of_norm), attention_output_norm.weight_share(first / tile), attention_output_norm.bias_share(first / tile));
    }
    w.apply_back(Role::attention_output, part(d_attention), part(d_context));
  });
  for (const NormGradients* norm : {&ffn_norm, &ffn_output_norm, &attention_output_norm}) norm->finish();
  w.add_gradients(Role::ffn_down, d_ffn, active, gradients);
  if (w.has_gate_up()) {
    w.add_gradients(Role::ffn_gate_up, gate_up, kept.ffn_normed.view(), gradients);
  } else {
    w.add_gradients(Role::ffn_up, up, kept.ffn_normed.view(), gradients);
    if (w.is_gated()) w.add_gradients(Role::ffn_gate, gate, kept.ffn_normed.view(), gradients);
  }
  w.add_gradients(Role::attention_output, d_attention, kept.context.view(), gradients);

  // Attention, one head of keys and values of one sequence at a time.
  const MatrixView d_projected = work.d_query_key_value.resize(rows, kept.query_key_value.view().cols);
  const auto operands = w.split(kept.query_key_value.view());
  const auto d_operands = w.split(d_projected);
  const auto count = static_cast<int64_t>(sequences.ranges.size());
  std::vector<double> divergences(static_cast<size_t>(count * config.kv_heads));
  parallel_for(count * config.kv_heads, [&](int64_t index) {
    const auto s = static_cast<size_t>(index / config.kv_heads);
    const auto [first, length] = sequences.ranges[s];
    const int64_t end = s + 1 < sequences.ranges.size() ? sequences.ranges[s + 1].first : rows;
    const auto part = [&, first = first](auto matrix) { return matrix.row_range(first, end - first); };
    const AttentionTarget target = attention ? AttentionTarget{attention->config, part(attention->q), part(attention->k)} : AttentionTarget();
    divergences[static_cast<size_t>(index)] = attend_backward(config, w.backend, index % config.kv_heads, length, {part(operands.q), part(operands.k), part(operands.v)}, part(d_context), {part(d_operands.q), part(d_operands.k), part(d_operands.v)}, attention ? &target : nullptr, attention_weight);
  });
  const double divergence = std::accumulate(divergences.begin(), divergences.end(), 0.0);
  if (w.rotary)
    for (const auto& [first, length] : sequences.ranges) {
      w.rotary->rotate_back(d_operands.q.row_range(first, length));
      w.rotary->rotate_back(d_operands.k.row_range(first, length));
    }
  if (w.has_head_norms()) {
    NormGradients query_norm(gradients, Role::query_norm, tiles, w.query_norm.weight.cols()), key_norm(gradients, Role::key_norm, tiles, w.key_norm.weight.cols());
    for_each_tile(rows, [&](int64_t first, int64_t rows_here) {
      const auto part = [&](auto matrix) { return matrix.row_range(first, rows_here); };
      w.query_norm.apply_back_to_heads(part(kept.unnormed_query.view()), part(d_operands.q), query_norm.weight_share(first / tile));
      w.key_norm.apply_back_to_heads(part(kept.unnormed_key.view()), part(d_operands.k), key_norm.weight_share(first / tile));
    });
    query_norm.finish();
    key_norm.finish();
  }
  const MatrixView d_fused = w.is_fused() && !w.has_parts() ? work.d_fused.resize(rows, d_projected.cols) : d_projected;
  if (w.is_fused()) {
    if (!w.has_parts()) for_each_tile(rows, [&](int64_t first, int64_t rows_here) {
        const auto part = [&](auto matrix) { return matrix.row_range(first, rows_here); };
        join_fused(config, part(d_operands.q), part(d_operands.k), part(d_operands.v), part(d_fused));
      });
    w.add_gradients(Role::query_key_value, d_fused, kept.attention_normed.view(), gradients);
  } else {
    w.add_gradients(Role::query, d_operands.q, kept.attention_normed.view(), gradients);
    w.add_gradients(Role::key, d_operands.k, kept.attention_normed.view(), gradients);
    w.add_gradients(Role::value, d_operands.v, kept.attention_normed.view(), gradients);
  }

  // The block's input.
  const bool wants_norm = gradients.find(Role::attention_norm) || gradients.find(Role::attention_norm, Part::bias);
  if (d_hidden.rows == 0 && !wants_norm) return divergence;
  NormGradients attention_norm(gradients, Role::attention_norm, tiles, config.hidden);
  for_each_tile(rows, [&](int64_t first, int64_t rows_here) {
    const auto part = [&](auto matrix) { return matrix.row_range(first, rows_here); };
    const MatrixView d = scratch_tile<2>(rows_here, config.hidden);
    if (w.is_fused()) {
      w.apply_back(Role::query_key_value, part(d_fused), d);
    } else {
      const MatrixView more = scratch_tile<3>(rows_here, config.hidden);
      w.apply_back(Role::query, part(d_operands.q), d);
      w.apply_back(Role::key, part(d_operands.k), more);
      add_rows(d, more);
      w.apply_back(Role::value, part(d_operands.v), more);
      add_rows(d, more);
    }
    if (w.has_shared_norm()) add_rows(d, part(d_ffn_input));
    w.attention_norm.apply_back(part(hidden), d, attention_norm.weight_share(first / tile), attention_norm.bias_share(first / tile));
    if (d_hidden.rows == 0) return;
    for (int64_t r = 0; r < rows_here; ++r) std::ranges::copy(part(d_middle).row_span(r), d_hidden.row(first + r));
    add_rows(part(d_hidden), d);
    if (config.parallel && !w.has_shared_norm()) add_rows(part(d_hidden), part(d_ffn_input));
  });
  attention_norm.finish();
  return divergence;
}

}  // namespace llmc
