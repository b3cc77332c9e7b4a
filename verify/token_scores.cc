#include "verify/token_scores.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "core/parallel.h"
#include "core/pooled_memory.h"
#include "model/kernels.h"
#include "model/matmul.h"

namespace llmc {
namespace {

/// With the log-sum-exps known.
double kl_divergence(std::span<const float> reference, double reference_norm, std::span<const float> model, double model_norm) {
  return std::max(sum_divergence(reference, reference_norm, model, model_norm), 0.0);  // exact arithmetic gives no less
}

/// As many as one product takes, fewer where logits would need more than 32 MB.
int64_t count_rows_at_once(int64_t vocabulary) { return std::clamp<int64_t>((int64_t{8} << 20) / vocabulary / 16 * 16, 16, 4 * PackedMatrix::tile_rows); }

/// One of the models, and the hidden states of the windows in work.
struct Runner {
  Runner(const Model& of, const ForwardOptions& options, const HeadWeights* other, std::span<const int32_t> token_ids) : model(of), forward(of, options), head(forward.load_head(other)), ids(token_ids) {}

  void embed(const Windows& windows, size_t first, size_t last) {
    hidden.clear();
    hidden.resize(last - first);
    parallel_for(static_cast<int64_t>(hidden.size()), [&](int64_t i) {
      const auto tokens = windows.list[first + static_cast<size_t>(i)].tokens;
      Matrix& states = hidden[static_cast<size_t>(i)] = Matrix(static_cast<int64_t>(tokens.size()), model.config().hidden);
      std::vector<int32_t> renamed;
      for (int32_t token : tokens)
        if (!ids.empty()) renamed.push_back(ids[static_cast<size_t>(token)]);
      forward.embed(ids.empty() ? tokens : renamed, states.view());
    });
  }

  void run_block(int64_t block, Stage& stage) {
    const auto weights = forward.load_block(block);
    parallel_for(static_cast<int64_t>(hidden.size()), [&](int64_t i) {
      forward.run_block(*weights, hidden[static_cast<size_t>(i)].view());
      stage.advance();
    });
    model.checkpoint().release_pages();
  }

  /// The id that one of the models' tokens has here.
  size_t id_of(size_t token) const { return ids.empty() ? token : static_cast<size_t>(ids[token]); }

  const Model& model;
  const Forward forward;
  const std::shared_ptr<const HeadWeights> head;
  const std::span<const int32_t> ids;
  std::vector<Matrix> hidden;
};

/// Sums over tokens from which a HiddenError is made.
struct HiddenSums {
  double difference = 0, reference = 0, cosines = 0;
  int64_t tokens = 0;

  void add(ConstMatrixView states, ConstMatrixView reference_states) {
    for (int64_t r = 0; r < states.rows; ++r) {
      double own = 0, other = 0, both = 0, apart = 0;
      for (int64_t c = 0; c < states.cols; ++c) {
        const double x = states.row(r)[c], y = reference_states.row(r)[c];
        own += x * x, other += y * y, both += x * y, apart += (x - y) * (x - y);
      }
      difference += apart, reference += other, ++tokens;
      cosines += own > 0 && other > 0 ? both / std::sqrt(own * other) : own == other;
    }
  }
  HiddenError error() const { return {.relative_error = reference > 0 ? std::sqrt(difference / reference) : difference > 0 ? INFINITY : 0, .cosine = cosines / static_cast<double>(tokens)}; }
};

/// The models of a run, loaded but for their blocks.
class Contest {
 public:
  Contest(const SideBySide& run, const ForwardOptions& options) {
    const ForwardOptions of_references{.precision = options.precision, .backend = options.backend, .zeros = options.zeros};
    for (const Model* reference : run.references) references_.push_back(std::make_unique<Runner>(*reference, of_references, first_head(), run.reference_ids));
    for (const Model* model : run.models) models_.push_back(std::make_unique<Runner>(*model, options, first_head(), std::span<const int32_t>()));
    for (const auto& runner : references_) most_layers_ = std::max(most_layers_, runner->model.config().layers);
    for (const auto& runner : models_) most_layers_ = std::max(most_layers_, runner->model.config().layers);
    if (run.hidden_errors == HiddenErrors::measured) hidden_.assign(models_.size() * references_.size(), std::vector<HiddenSums>(static_cast<size_t>(most_layers_)));
  }

  /// Through all blocks, of windows [first, last).
  void run_blocks(const Windows& windows, size_t first, size_t last, Stage& stage) {
    for (auto* side : {&references_, &models_})
      for (const auto& runner : *side) runner->embed(windows, first, last);
    for (int64_t block = 0; block < most_layers_; ++block) {
      for (auto* side : {&references_, &models_})
        for (const auto& runner : *side)
          if (block < runner->model.config().layers) runner->run_block(block, stage);
      for (size_t pair = 0; pair < hidden_.size(); ++pair) {
        const Runner &model = *models_[pair / references_.size()], &reference = *references_[pair % references_.size()];
        for (size_t i = 0; i < model.hidden.size(); ++i) hidden_[pair][static_cast<size_t>(block)].add(model.hidden[i].view(), reference.hidden[i].view());
      }
    }
  }

  /// The heads over a window's scored positions, a few rows at a time; `index` is the window's among those in work.
  WindowScores score(const Window& window, size_t index) const {
    const auto end = static_cast<int64_t>(window.tokens.size());
    const auto count = static_cast<size_t>(std::max<int64_t>(0, end - window.first_scored));
    WindowScores scores;
    scores.models.assign(models_.size(), std::vector<TokenScore>(count));
    scores.references.assign(references_.size(), std::vector<TokenScore>(count));
    scores.pairs.assign(models_.size() * references_.size(), std::vector<PairScore>(count));
    int64_t vocabulary = 1;
    for (const auto* side : {&references_, &models_})
      for (const auto& runner : *side) vocabulary = std::max(vocabulary, runner->model.config().vocabulary);
    const int64_t rows_at_once = count_rows_at_once(vocabulary);
    std::vector<Predictions> of_references, of_models;
    for (const auto& runner : references_) of_references.emplace_back(*runner, rows_at_once);
    for (const auto& runner : models_) of_models.emplace_back(*runner, rows_at_once);
    for (int64_t target = window.first_scored; target < end; target += rows_at_once) {
      const int64_t rows = std::min(rows_at_once, end - target);
      for (auto* side : {&of_references, &of_models})
        for (Predictions& predictions : *side) predictions.compute(target - 1, rows, index);
      for (int64_t r = 0; r < rows; ++r) {
        const auto at = static_cast<size_t>(target - window.first_scored + r), token = static_cast<size_t>(window.tokens[static_cast<size_t>(target + r)]);
        for (size_t i = 0; i < of_references.size(); ++i) scores.references[i][at] = of_references[i].score(r, token);
        for (size_t i = 0; i < of_models.size(); ++i) scores.models[i][at] = of_models[i].score(r, token);
        for (size_t pair = 0; pair < scores.pairs.size(); ++pair) scores.pairs[pair][at] = compare(of_models[pair / references_.size()], of_references[pair % references_.size()], r);
      }
    }
    return scores;
  }

  int64_t block_runs() const {
    int64_t sum = 0;
    for (const auto* side : {&references_, &models_})
      for (const auto& runner : *side) sum += runner->model.config().layers;
    return sum;
  }
  /// Of the hidden states of a token, in all models.
  int64_t total_width() const {
    int64_t sum = 0;
    for (const auto* side : {&references_, &models_})
      for (const auto& runner : *side) sum += runner->model.config().hidden;
    return sum;
  }
  std::vector<std::vector<HiddenError>> hidden_errors() const {
    std::vector<std::vector<HiddenError>> errors;
    for (const auto& pair : hidden_) {
      errors.emplace_back();
      for (const HiddenSums& sums : pair) errors.back().push_back(sums.error());
    }
    return errors;
  }

 private:
  /// Logits of a few positions, and what is known of each row.
  struct Predictions {
    Predictions(const Runner& of, int64_t rows_at_once) : runner(of), logits(rows_at_once, of.model.config().vocabulary), norms(static_cast<size_t>(rows_at_once)), best(static_cast<size_t>(rows_at_once)) {}
    void compute(int64_t position, int64_t rows, size_t index) {
      runner.forward.run_head(*runner.head, runner.hidden[index].view().row_range(position, rows), logits.view().row_range(0, rows));
      for (int64_t r = 0; r < rows; ++r) {
        norms[static_cast<size_t>(r)] = log_sum_exp(row(r));
        best[static_cast<size_t>(r)] = find_largest(row(r));
      }
    }
    std::span<const float> row(int64_t r) const { return logits.view().row_span(r); }
    TokenScore score(int64_t r, size_t token) const {
      const size_t id = runner.id_of(token);
      return {.nll = norms[static_cast<size_t>(r)] - row(r)[id], .hit = best[static_cast<size_t>(r)] == id};
    }

    const Runner& runner;
    Scratch logits;
    std::vector<double> norms;
    std::vector<size_t> best;
  };

  static PairScore compare(const Predictions& model, const Predictions& reference, int64_t r) {
    const auto at = static_cast<size_t>(r);
    const bool agrees = reference.best[at] == reference.runner.id_of(model.best[at]);
    if (reference.runner.ids.empty()) return {.kl = kl_divergence(reference.row(r), reference.norms[at], model.row(r), model.norms[at]), .agrees = agrees};
    std::vector<float> shared;
    for (const int32_t id : reference.runner.ids) shared.push_back(reference.row(r)[static_cast<size_t>(id)]);
    const double shared_norm = log_sum_exp(shared);
    return {.kl = kl_divergence(shared, shared_norm, model.row(r), model.norms[at]), .shared = std::exp(shared_norm - reference.norms[at]), .agrees = agrees};
  }

  /// Of which the others may borrow the matrix.
  const HeadWeights* first_head() const { return !references_.empty() ? references_.front()->head.get() : !models_.empty() ? models_.front()->head.get() : nullptr; }

  std::vector<std::unique_ptr<Runner>> references_, models_;
  int64_t most_layers_ = 0;
  std::vector<std::vector<HiddenSums>> hidden_;  ///< by pair and block; empty unless measured
};

std::string name_of(const Model& model) { return model.checkpoint().directory.string(); }

/// `other`: the words before the second one's name.
void check_vocabularies(const Model& model, const Model& second, const char* other) {
  if (second.config().vocabulary != model.config().vocabulary) throw Error(ErrorKind::input, fmt::format("{}: vocabulary of {}, but {}{} has {}", name_of(model), model.config().vocabulary, other, name_of(second), second.config().vocabulary));
}

/// Throws Error where a model cannot be held to a reference.
void check_pair(const Model& model, const Model& reference, const SideBySide& run) {
  if (run.reference_ids.empty()) check_vocabularies(model, reference, "the reference ");
  if (run.hidden_errors == HiddenErrors::skipped) return;
  if (model.config().layers == reference.config().layers && model.config().hidden == reference.config().hidden) return;
  throw Error(ErrorKind::usage, fmt::format("hidden states of {}, {} blocks of {}, cannot be compared with those of {}, {} blocks of {}", name_of(model), model.config().layers, model.config().hidden, name_of(reference), reference.config().layers, reference.config().hidden));
}

}  // namespace

double kl_divergence(std::span<const float> reference, std::span<const float> model) { return kl_divergence(reference, log_sum_exp(reference), model, log_sum_exp(model)); }

TokenScores score_tokens(const SideBySide& run, const Windows& windows, const ForwardOptions& options, const RunContext& context) {
  for (const Model* model : run.models) {
    check_vocabularies(*model, *run.models.front(), "");
    for (const Model* reference : run.references) check_pair(*model, *reference, run);
  }
  Contest contest(run, options);
  int64_t longest = 1;
  for (const Window& window : windows.list) longest = std::max(longest, static_cast<int64_t>(window.tokens.size()));
  const int64_t window_bytes = longest * contest.total_width() * static_cast<int64_t>(sizeof(float));
  const auto batch = static_cast<size_t>(std::max<int64_t>(1, run.hidden_bytes / window_bytes));
  TokenScores result;
  result.windows.resize(windows.list.size());
  Stage stage(context, "evaluate", static_cast<int64_t>(windows.list.size()) * contest.block_runs());
  for (size_t first = 0; first < windows.list.size(); first += batch) {
    const size_t last = std::min(windows.list.size(), first + batch);
    contest.run_blocks(windows, first, last, stage);
    parallel_for(static_cast<int64_t>(last - first), [&](int64_t i) {
      context.check_stop();
      const auto at = static_cast<size_t>(i);
      result.windows[first + at] = contest.score(windows.list[first + at], at);
    });
  }
  result.hidden = contest.hidden_errors();
  return result;
}

}  // namespace llmc
