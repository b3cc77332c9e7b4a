#include "verify/quality.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "core/random.h"
#include "model/kernels.h"
#include "model/matmul.h"
#include "verify/oracle.h"

namespace llmc {
namespace {

/// What one scored position gave.
struct Score {
  double nll = 0;
  double reference_nll = 0;
  double kl = 0;
  double shared = 1;  ///< probability that the reference gives to shared tokens
  bool hit = false;
  bool reference_hit = false;
  bool agrees = false;
};

/// With the log-sum-exps known.
double kl_divergence(std::span<const float> reference, double reference_norm, std::span<const float> model, double model_norm) {
  return std::max(sum_divergence(reference, reference_norm, model, model_norm), 0.0);  // exact arithmetic gives no less
}

/// Hidden states of windows [first, last) after the last block; `ids` of the windows' tokens, empty when they are the model's.
std::vector<Matrix> run_blocks(const Model& model, const Forward& forward, std::span<const int32_t> ids, const Windows& windows, size_t first, size_t last, Stage& stage) {
  std::vector<Matrix> hidden(last - first);
  parallel_for(static_cast<int64_t>(hidden.size()), [&](int64_t i) {
    const auto tokens = windows.list[first + static_cast<size_t>(i)].tokens;
    Matrix& states = hidden[static_cast<size_t>(i)] = Matrix(static_cast<int64_t>(tokens.size()), model.config().hidden);
    std::vector<int32_t> renamed;
    for (int32_t token : tokens)
      if (!ids.empty()) renamed.push_back(ids[static_cast<size_t>(token)]);
    forward.embed(ids.empty() ? tokens : renamed, states.view());
  });
  for (int64_t block = 0; block < model.config().layers; ++block) {
    const auto weights = forward.load_block(block);
    parallel_for(static_cast<int64_t>(hidden.size()), [&](int64_t i) {
      forward.run_block(*weights, hidden[static_cast<size_t>(i)].view());
      stage.advance();
    });
    model.checkpoint().release_pages();
  }
  return hidden;
}

/// As many as one product takes, fewer where logits would need more than 32 MB.
int64_t count_rows_at_once(int64_t vocabulary) { return std::clamp<int64_t>((int64_t{8} << 20) / vocabulary / 16 * 16, 16, 2 * PackedMatrix::tile_rows); }

/// Runs the heads over a window's scored positions, a few rows at a time. `reference` may be nullptr.
struct Judge {
  const Forward* forward;
  const HeadWeights* head;
  const Forward* reference_forward;
  const HeadWeights* reference_head;
  int64_t vocabulary;
  int64_t reference_vocabulary;
  std::span<const int32_t> reference_ids;  ///< of the model's tokens; empty: the same

  void score(std::span<const int32_t> tokens, int64_t first_scored, ConstMatrixView hidden, ConstMatrixView reference_hidden, std::span<Score> scores) const {
    const int64_t rows_at_once = count_rows_at_once(std::max(vocabulary, reference_vocabulary));
    Matrix logits(rows_at_once, vocabulary);
    Matrix reference_logits(reference_forward ? rows_at_once : 0, reference_vocabulary);
    std::vector<float> shared(reference_ids.size());
    const int64_t end = static_cast<int64_t>(tokens.size());
    for (int64_t target = first_scored; target < end; target += rows_at_once) {
      const int64_t rows = std::min(rows_at_once, end - target);
      forward->run_head(*head, hidden.row_range(target - 1, rows), logits.view().row_range(0, rows));
      if (reference_forward) reference_forward->run_head(*reference_head, reference_hidden.row_range(target - 1, rows), reference_logits.view().row_range(0, rows));
      for (int64_t r = 0; r < rows; ++r) {
        const auto token = static_cast<size_t>(tokens[static_cast<size_t>(target + r)]);
        Score& score = scores[static_cast<size_t>(target - first_scored + r)];
        const std::span<const float> row = logits.view().row_span(r);
        const double norm = log_sum_exp(row);
        const size_t best = find_largest(row);
        score.nll = norm - row[token];
        score.hit = best == token;
        if (!reference_forward) continue;
        const std::span<const float> reference_row = reference_logits.view().row_span(r);
        const double reference_norm = log_sum_exp(reference_row);
        const size_t reference_best = find_largest(reference_row);
        const auto id_of = [&](size_t id) { return reference_ids.empty() ? id : static_cast<size_t>(reference_ids[id]); };
        score.reference_nll = reference_norm - reference_row[id_of(token)];
        score.reference_hit = reference_best == id_of(token);
        score.agrees = reference_best == id_of(best);
        if (reference_ids.empty()) {
          score.kl = kl_divergence(reference_row, reference_norm, row, norm);
          continue;
        }
        for (size_t i = 0; i < shared.size(); ++i) shared[i] = reference_row[id_of(i)];
        const double shared_norm = log_sum_exp(shared);
        score.kl = kl_divergence(shared, shared_norm, row, norm);
        score.shared = std::exp(shared_norm - reference_norm);
      }
    }
  }
};

double mean_of(const std::vector<std::vector<Score>>& scores, auto field) {
  double sum = 0;
  int64_t count = 0;
  for (const auto& window : scores)
    for (const Score& score : window) sum += static_cast<double>(field(score)), ++count;
  return sum / static_cast<double>(count);
}

/// Linear interpolation between order statistics (Hyndman and Fan's type 7).
double quantile(const std::vector<double>& sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

/// Standard error of the mean log-probability difference with windows as clusters: tokens of one window are not independent.
std::optional<double> clustered_error(const std::vector<std::vector<Score>>& scores, double mean_difference) {
  const auto windows = static_cast<double>(scores.size());
  if (scores.size() < 2) return std::nullopt;
  double sum = 0, tokens = 0;
  for (const auto& window : scores) {
    double deviation = 0;
    for (const Score& score : window) deviation += score.nll - score.reference_nll - mean_difference;
    sum += deviation * deviation;
    tokens += static_cast<double>(window.size());
  }
  return std::sqrt(sum * windows / (windows - 1)) / tokens;
}

Comparison compare(const std::vector<std::vector<Score>>& scores, double mean_nll) {
  const double reference_nll = mean_of(scores, [](const Score& s) { return s.reference_nll; });
  std::vector<double> kl;
  bool has_nan = false;
  for (const auto& window : scores)
    for (const Score& score : window) kl.push_back(score.kl), has_nan |= std::isnan(score.kl);
  if (!has_nan) std::ranges::sort(kl);  // NaN has no order; the mean shows it
  Comparison result;
  result.reference_perplexity = std::exp(reference_nll);
  result.reference_top1_accuracy = mean_of(scores, [](const Score& s) { return s.reference_hit; });
  result.kl_mean = mean_of(scores, [](const Score& s) { return s.kl; });
  result.kl_median = has_nan ? NAN : quantile(kl, 0.5);
  result.kl_p99 = has_nan ? NAN : quantile(kl, 0.99);
  result.kl_max = has_nan ? NAN : kl.back();
  result.top1_agreement = has_nan ? NAN : mean_of(scores, [](const Score& s) { return s.agrees; });  // NaN has no first choice
  result.perplexity_increase = std::expm1(mean_nll - reference_nll);
  result.perplexity_delta = result.reference_perplexity * result.perplexity_increase;
  if (const auto error = clustered_error(scores, mean_nll - reference_nll)) result.perplexity_delta_error = std::exp(mean_nll) * *error;
  return result;
}

}  // namespace

double kl_divergence(std::span<const float> reference, std::span<const float> model) { return kl_divergence(reference, log_sum_exp(reference), model, log_sum_exp(model)); }

Quality evaluate(const Model& model, const Model* reference, const Windows& windows, const std::string& data_name, const ForwardOptions& options, const RunContext& context, std::span<const int32_t> reference_ids) {
  if (reference && reference_ids.empty() && reference->config().vocabulary != model.config().vocabulary)
    throw Error(ErrorKind::input, fmt::format("{}: vocabulary of {}, but the reference {} has {}", model.checkpoint().directory.string(), model.config().vocabulary, reference->checkpoint().directory.string(), reference->config().vocabulary));
  const Forward forward(model, options);
  std::optional<Forward> reference_forward;
  if (reference) reference_forward.emplace(*reference, ForwardOptions{.precision = options.precision, .backend = options.backend, .zeros = options.zeros});
  const auto reference_head = reference ? reference_forward->load_head() : nullptr;
  const auto head = forward.load_head(reference_head.get());
  const Judge judge{&forward, head.get(), reference ? &*reference_forward : nullptr, reference_head.get(), model.config().vocabulary, reference ? reference->config().vocabulary : 0, reference_ids};

  constexpr int64_t most_hidden_bytes = int64_t{512} << 20;  // of hidden states held at once, per model
  const int64_t window_bytes = windows.length * model.config().hidden * static_cast<int64_t>(sizeof(float));
  const auto batch = static_cast<size_t>(std::max<int64_t>(1, most_hidden_bytes / window_bytes));
  const int64_t layers = model.config().layers + (reference ? reference->config().layers : 0);
  std::vector<std::vector<Score>> scores(windows.list.size());
  {
    Stage stage(context, "evaluate", static_cast<int64_t>(windows.list.size()) * layers);
    for (size_t first = 0; first < windows.list.size(); first += batch) {
      const size_t last = std::min(windows.list.size(), first + batch);
      std::vector<Matrix> reference_hidden;
      if (reference) reference_hidden = run_blocks(*reference, *reference_forward, reference_ids, windows, first, last, stage);
      const std::vector<Matrix> hidden = run_blocks(model, forward, {}, windows, first, last, stage);
      parallel_for(static_cast<int64_t>(last - first), [&](int64_t i) {
        context.check_stop();
        const auto at = static_cast<size_t>(i);
        const Window& window = windows.list[first + at];
        const int64_t first_scored = windows.first_scored(window);
        auto& result = scores[first + at];
        result.resize(static_cast<size_t>(std::max<int64_t>(0, static_cast<int64_t>(window.tokens.size()) - first_scored)));
        judge.score(window.tokens, first_scored, hidden[at].view(), reference ? reference_hidden[at].view() : ConstMatrixView(), result);
      });
    }
  }

  Quality quality{.data = data_name, .convention = windows.description(), .windows = static_cast<int64_t>(windows.list.size()), .tokens = windows.tokens, .unused_tokens = windows.unused_tokens};
  double nats = 0;
  int64_t bytes = 0;
  for (size_t w = 0; w < scores.size(); ++w) {
    const Window& window = windows.list[w];
    quality.scored_tokens += static_cast<int64_t>(scores[w].size());
    for (const Score& score : scores[w]) nats += score.nll;
    for (size_t t = static_cast<size_t>(windows.first_scored(window)); t < window.byte_lengths.size(); ++t) bytes += window.byte_lengths[t];
  }
  quality.mean_nll = nats / static_cast<double>(quality.scored_tokens);
  quality.perplexity = std::exp(quality.mean_nll);
  if (bytes > 0) quality.bits_per_byte = nats / std::numbers::ln2 / static_cast<double>(bytes);
  quality.execution = find_execution(model);
  quality.kv_cache_bits = options.kv_cache_bits;
  quality.top1_accuracy = std::isnan(quality.mean_nll) ? NAN : mean_of(scores, [](const Score& s) { return s.hit; });
  if (reference) quality.comparison = compare(scores, quality.mean_nll);
  if (reference && !reference_ids.empty()) quality.comparison->shared_probability = mean_of(scores, [](const Score& s) { return s.shared; });
  return quality;
}

OracleAgreement check_against_oracle(const Model& model, const Windows& windows, const ForwardOptions& options, uint64_t seed) {
  constexpr int64_t products_per_second = 1'000'000'000;  // what one plain loop manages
  constexpr int64_t most_positions = 64;
  Random random(seed, "oracle sample");
  const Window& window = windows.list[random.below(windows.list.size())];
  const int64_t affordable = std::clamp<int64_t>(products_per_second / std::max<int64_t>(1, model.parameters()), 4, most_positions);
  const auto tokens = window.tokens.first(std::min(window.tokens.size(), static_cast<size_t>(affordable)));

  const Matrix fast = compute_logits(model, tokens, options);
  const std::vector<double> plain = compute_oracle_logits(model, tokens, {.kv_cache_bits = options.kv_cache_bits});
  OracleAgreement result{.positions = static_cast<int64_t>(tokens.size())};
  double sum = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double difference = std::abs(fast.values()[i] - plain[i]);
    result.max_logit_difference = std::isnan(difference) ? NAN : std::max(result.max_logit_difference, difference);
    result.max_logit = std::max(result.max_logit, std::abs(plain[i]));
    sum += difference;
  }
  result.mean_logit_difference = sum / static_cast<double>(plain.size());
  if (options.kv_cache_bits || find_execution(model) != Execution::floats) {
    const std::vector<double> rounded = compute_oracle_logits(model, tokens, {.kv_cache_bits = options.kv_cache_bits, .inputs = OracleOptions::Inputs::rounded});
    double change = 0;
    for (size_t i = 0; i < plain.size(); ++i) change += std::abs(rounded[i] - plain[i]);
    result.rounding_difference = change / static_cast<double>(plain.size());
  }
  return result;
}

}  // namespace llmc
