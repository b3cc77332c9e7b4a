#include "calib/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "core/process_memory.h"
#include "model/experts.h"

namespace llmc {
namespace {

/// One model's activations on their way: hidden states, and the input at the current tap.
struct Chain {
  const Model* model = nullptr;
  const Forward* forward = nullptr;
  ActivationStore hidden;
  ActivationStore input;
  PageMemory spare = {};  ///< of the input at the tap before, for that at the next
};

/// Sequences that the float model runs on where nothing but BlockError needs it.
constexpr int64_t compared_sequences = 4;

class Sweep {
 public:
  Sweep(Model& model, const Sequences& sequences, const SweepOptions& options, BlockVisitor& visitor, const RunContext& context)
      : model_(model), sequences_(sequences), options_(options), visitor_(visitor), context_(context), forward_(model, options.forward),
        input_dtype_(options.forward.precision == Precision::bf16 && !visitor.needs_exact_inputs() ? DType::bf16 : options.activations) {
    for (const auto& sequence : sequences) lengths_.push_back(static_cast<int64_t>(sequence.size()));
    if (!options.original) return;
    const ModelConfig& expected = model.config();
    const ModelConfig& found = options.original->config();
    if (found.layers != expected.layers || found.hidden != expected.hidden) throw Error(ErrorKind::usage, fmt::format("calibration: the model has {} blocks of width {}, the original one {} of width {}; expected the same, as they are compared block by block", expected.layers, expected.hidden, found.layers, found.hidden));
    original_.emplace(*options.original, options.forward);
  }

  std::vector<BlockError> run() {
    const int64_t layers = model_.config().layers;
    std::optional<SweepState> state;
    if (!options_.state_directory.empty()) state.emplace(options_.state_directory, options_.persistence, options_.signature);
    const bool learns_from_floats = visitor_.needs_drift_moment() || visitor_.needs_block_outputs();
    const int64_t beside = learns_from_floats ? count() : std::min(count(), compared_sequences);
    Chain changed = embed(model_, forward_, count()), plain = original_ ? embed(*options_.original, *original_, beside) : embed(model_, forward_, beside);
    if (visitor_.changes_embedding())
      parallel_for(count(), [&](int64_t i) {
        Matrix hidden = changed.hidden.read(i);
        visitor_.change_embedding(hidden.view());
        changed.hidden.write(i, hidden.view());
      });
    std::vector<BlockError> errors;
    Stage stage(context_, "calibrate", layers * static_cast<int64_t>(all_taps.size()));
    if (state && state->finished() > 0) {
      state->restore(model_, changed.hidden, plain.hidden);
      visitor_.restore_notes(state->notes().at("visitor"));
      for (const auto& error : state->notes().at("errors")) errors.push_back({.relative_error = error.get<double>()});
      stage.advance(state->finished() * static_cast<int64_t>(all_taps.size()));
    }
    for (int64_t block = static_cast<int64_t>(errors.size()); block < layers; ++block) {
      if (visitor_.needs_preparation()) visitor_.prepare(block, observe_block(block, changed.hidden));
      run_taps(block, changed, plain, stage);
      errors.push_back(compare(changed.hidden, plain.hidden));
      model_.checkpoint().release_pages();
      if (options_.original) options_.original->checkpoint().release_pages();
      if (state) state->save(model_, block, changed.hidden, plain.hidden, describe(errors), context_);
    }
    return errors;
  }

 private:
  int64_t count() const { return static_cast<int64_t>(sequences_.size()); }

  /// For the first `sequences` of them, in `used` where that is large enough.
  ActivationStore make_store(int64_t width, int64_t sequences, DType dtype, PageMemory used = {}) {
    const auto lengths = std::span(lengths_).first(static_cast<size_t>(sequences));
    int64_t tokens = 0;
    for (int64_t length : lengths) tokens += length;
    const uint64_t size = ActivationStore::size_of(tokens, width, dtype);
    const bool spills = options_.max_memory > 0 && current_memory_bytes() + size > options_.max_memory;
    return ActivationStore(lengths, width, dtype, spills ? std::optional(options_.spill_directory) : std::nullopt, std::move(used));
  }

  /// The memory of a store that is done with; with a limit it goes back at once.
  PageMemory recycle(ActivationStore& store) { return options_.max_memory > 0 ? PageMemory() : std::move(store).take_memory(); }

  ActivationStore copy_store(const ActivationStore& from) {
    ActivationStore copy = make_store(from.width(), from.sequences(), options_.activations);
    for (int64_t i = 0; i < from.sequences(); ++i) copy.write(i, from.read(i).view());
    return copy;
  }

  Chain embed(const Model& model, const Forward& forward, int64_t sequences) {
    Chain chain{&model, &forward, make_store(model.config().hidden, sequences, options_.activations), ActivationStore({}, 0, input_dtype_, std::nullopt)};
    parallel_for(sequences, [&](int64_t i) {
      const auto& tokens = sequences_[static_cast<size_t>(i)];
      Matrix hidden(static_cast<int64_t>(tokens.size()), model.config().hidden);
      forward.embed(tokens, hidden.view());
      chain.hidden.write(i, hidden.view());
    });
    model.checkpoint().release_pages();  // of the embedding's rows
    return chain;
  }

  void enter(int64_t block, Chain& chain) {
    const auto entry = chain.forward->load_entry(block);
    chain.input = make_store(chain.model->config().hidden, chain.hidden.sequences(), input_dtype_, recycle(chain.input));
    parallel_for(chain.hidden.sequences(), [&](int64_t i) {
      Matrix hidden, input;
      const MatrixView entered = chain.input.open(i, input);
      chain.forward->enter_block(*entry, chain.hidden.view(i, hidden), entered);
      chain.input.commit(i, entered);
    });
  }

  /// Takes a chain from one tap to the next.
  void advance(const StageWeights& weights, Tap tap, Chain& chain) {
    const bool is_last = tap == all_taps.back();
    const ModelConfig& config = chain.model->config();
    const int64_t width = is_last ? 0 : get_width(all_taps[static_cast<size_t>(tap) + 1], config);
    const bool is_routed = tap == Tap::attention_context && config.experts > 0;  // by routers, which round no input
    ActivationStore next = make_store(width, chain.hidden.sequences(), is_routed ? options_.activations : input_dtype_, std::move(chain.spare));
    parallel_for(chain.hidden.sequences(), [&](int64_t i) {
      Matrix input_buffer, hidden_buffer, next_buffer;
      const ConstMatrixView input = chain.input.view(i, input_buffer);
      const MatrixView next_input = next.open(i, next_buffer);
      if (tap != Tap::attention_context && !is_last) {
        chain.forward->run_stage(weights, input, {nullptr, input.rows, config.hidden, config.hidden}, next_input);  // leaves the hidden states alone
      } else {
        const MatrixView hidden = chain.hidden.open(i, hidden_buffer);
        if (!hidden_buffer.empty()) hidden_buffer = chain.hidden.read(i);
        const MatrixView states = hidden_buffer.empty() ? hidden : hidden_buffer.view();
        chain.forward->run_stage(weights, input, states, next_input);
        chain.hidden.commit(i, states);
      }
      next.commit(i, next_input);
    });
    std::swap(chain.input, next);
    if (tap != Tap::ffn_input) chain.spare = recycle(next);  // the widest tap comes next: its second moments need the room more
  }

  nlohmann::json describe(const std::vector<BlockError>& errors) const {
    nlohmann::json notes = {{"visitor", visitor_.notes()}, {"errors", nlohmann::json::array()}};
    for (const BlockError& error : errors) notes["errors"].push_back(error.relative_error);
    return notes;
  }

  std::string describe(int64_t block, Tap tap, const TapPart& part) const {
    return fmt::format("block {}, {}{}", block, to_string(tap), list_parts(tap, model_.config()).size() == 1 ? "" : part.number == shared_part ? " of the shared expert" : fmt::format(" of expert {}", part.number));
  }

  /// `plain`, where its inputs are wanted too, may be nullptr.
  InputStatistics collect(int64_t block, Tap tap, const TapPart& part, const Chain& changed, const Chain* plain) {
    const bool adds_to_residual = tap == Tap::attention_context || tap == Tap::ffn_activation;
    InputAccumulator sums(part.count, options_.forward);
    const bool is_routed = list_parts(tap, model_.config()).size() > 1 && !visitor_.needs_residual_moment();
    for (int64_t i = 0; i < count(); ++i) {
      Matrix buffer, float_buffer, hidden_buffer, float_hidden_buffer;
      const ConstMatrixView x = changed.input.view(i, buffer).column_range(part.first, part.count);
      const ConstMatrixView float_x = plain ? plain->input.view(i, float_buffer).column_range(part.first, part.count) : x;
      if (is_routed) {  // most tokens went elsewhere
        const std::vector<int64_t> rows = routed_rows(x, float_x);
        const Matrix few = take_rows(x, rows), few_floats = take_rows(float_x, rows);
        if (plain) sums.add(few.view(), few_floats.view());
        else sums.add(few.view());
        sums.add_zeros(x.rows - few.rows());
        continue;
      }
      if (plain) sums.add(x, float_x);
      else sums.add(x);
      if (plain && adds_to_residual && visitor_.needs_residual_moment()) sums.add_residual(x, changed.hidden.view(i, hidden_buffer), plain->hidden.view(i, float_hidden_buffer));
    }
    InputStatistics statistics = sums.finish(describe(block, tap, part));
    statistics.part = part.number;
    return statistics;
  }

  /// The statistics of every tap with the block as it is.
  std::map<Tap, InputStatistics> observe_block(int64_t block, const ActivationStore& hidden) {
    Chain chain{&model_, &forward_, copy_store(hidden), ActivationStore({}, 0, input_dtype_, std::nullopt)};
    enter(block, chain);
    std::map<Tap, InputStatistics> statistics;
    for (Tap tap : all_taps) {
      if (const auto parts = list_parts(tap, model_.config()); parts.size() == 1) statistics.emplace(tap, collect(block, tap, parts[0], chain, nullptr));
      if (tap != all_taps.back()) advance(*forward_.load_stage(block, tap), tap, chain);
    }
    return statistics;
  }

  void run_taps(int64_t block, Chain& changed, Chain& plain, Stage& stage) {
    for (const PlacedTensor& placed : model_.tensors())  // what is not a linear weight is final: its rounding is seen, and made up for, from here on
      if (placed.block == block && !is_block_linear(placed)) round_floats(*placed.tensor);
    std::optional<ActivationStore> start;
    if (visitor_.needs_block_outputs()) start = copy_store(changed.hidden);
    enter(block, changed);
    enter(block, plain);
    for (Tap tap : all_taps) {
      for (int64_t i = 0; i < count() && visitor_.needs_observation(block, tap); ++i) {
        Matrix buffer;
        visitor_.observe(block, tap, changed.input.view(i, buffer));
      }
      const auto float_weights = plain.forward->load_stage(block, tap);
      for (const TapPart& part : list_parts(tap, model_.config())) {
        InputStatistics statistics{.part = part.number};
        if (visitor_.needs_statistics(block, tap)) statistics = collect(block, tap, part, changed, visitor_.needs_drift_moment() ? &plain : nullptr);
        visitor_.finish(block, tap, statistics);
      }
      if (!visitor_.needs_block_outputs()) round_weights(block, tap);
      advance(*float_weights, tap, plain);
      advance(*forward_.load_stage(block, tap), tap, changed);
      stage.advance();
    }
    if (!start) return;
    visitor_.finish_block(block, *start, plain.hidden);
    for (Tap tap : all_taps) round_weights(block, tap);
    changed.hidden = std::move(*start);  // once more, with the block as it is now
    enter(block, changed);
    for (Tap tap : all_taps) advance(*forward_.load_stage(block, tap), tap, changed);
  }

  /// Floats that stay floats are final from here on.
  void round_weights(int64_t block, Tap tap) {
    for (const PlacedTensor& placed : model_.tensors())
      if (placed.block == block && find_tap(placed.row->role) == tap) round_floats(*placed.tensor);
  }

  BlockError compare(const ActivationStore& changed, const ActivationStore& plain) {
    double error = 0, size = 0;
    for (int64_t i = 0; i < plain.sequences(); ++i) {
      Matrix buffer, float_buffer;
      const ConstMatrixView a = changed.view(i, buffer), b = plain.view(i, float_buffer);
      for (int64_t r = 0; r < a.rows; ++r)
        for (int64_t c = 0; c < a.cols; ++c) {
          const double difference = double{a.row(r)[c]} - b.row(r)[c];
          error += difference * difference;
          size += double{b.row(r)[c]} * b.row(r)[c];
        }
    }
    return {.relative_error = size > 0 ? std::sqrt(error / size) : 0};
  }

  Model& model_;
  const Sequences& sequences_;
  const SweepOptions& options_;
  BlockVisitor& visitor_;
  const RunContext& context_;
  Forward forward_;
  std::optional<Forward> original_;
  DType input_dtype_;  ///< of the inputs at taps
  std::vector<int64_t> lengths_;
};

}  // namespace

std::vector<BlockError> sweep(Model& model, const Sequences& sequences, const SweepOptions& options, BlockVisitor& visitor, const RunContext& context) {
  return Sweep(model, sequences, options, visitor, context).run();
}

}  // namespace llmc
