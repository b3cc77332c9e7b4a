#include "verify/quality.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <type_traits>

#include "core/random.h"
#include "verify/oracle.h"

namespace llmc {
namespace {

using ModelTokens = std::vector<const std::vector<TokenScore>*>;  ///< of each window
using PairTokens = std::vector<const std::vector<PairScore>*>;

double mean_of(const auto& windows, auto field) {
  double sum = 0;
  int64_t count = 0;
  for (const auto* window : windows)
    for (const auto& score : *window) sum += static_cast<double>(field(score)), ++count;
  return sum / static_cast<double>(count);
}

double mean_nll_of(const ModelTokens& windows) {
  return mean_of(windows, [](const TokenScore& s) { return s.nll; });
}

/// NaN has no first choice.
double accuracy_of(const ModelTokens& windows, double mean_nll) {
  return std::isnan(mean_nll) ? NAN : mean_of(windows, [](const TokenScore& s) { return s.hit; });
}

/// Linear interpolation between order statistics (Hyndman and Fan's type 7).
double quantile(const std::vector<double>& sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

/// Standard error of the mean log-probability difference with windows as clusters: tokens of one window are not independent.
std::optional<double> clustered_error(const ModelTokens& model, const ModelTokens& reference, double mean_difference) {
  const auto windows = static_cast<double>(model.size());
  if (model.size() < 2) return std::nullopt;
  double sum = 0, tokens = 0;
  for (size_t w = 0; w < model.size(); ++w) {
    double deviation = 0;
    for (size_t t = 0; t < model[w]->size(); ++t) deviation += (*model[w])[t].nll - (*reference[w])[t].nll - mean_difference;
    sum += deviation * deviation;
    tokens += static_cast<double>(model[w]->size());
  }
  return std::sqrt(sum * windows / (windows - 1)) / tokens;
}

Comparison compare(const ModelTokens& model, const ModelTokens& reference, const PairTokens& pairs) {
  const double mean_nll = mean_nll_of(model), reference_nll = mean_nll_of(reference);
  std::vector<double> kl;
  bool has_nan = false;
  for (const auto* window : pairs)
    for (const PairScore& score : *window) kl.push_back(score.kl), has_nan |= std::isnan(score.kl);
  if (!has_nan) std::ranges::sort(kl);  // NaN has no order; the mean shows it
  Comparison result;
  result.reference_perplexity = std::exp(reference_nll);
  result.reference_top1_accuracy = accuracy_of(reference, reference_nll);
  result.kl_mean = mean_of(pairs, [](const PairScore& s) { return s.kl; });
  result.kl_median = has_nan ? NAN : quantile(kl, 0.5);
  result.kl_p99 = has_nan ? NAN : quantile(kl, 0.99);
  result.kl_max = has_nan ? NAN : kl.back();
  result.top1_agreement = has_nan ? NAN : mean_of(pairs, [](const PairScore& s) { return s.agrees; });  // NaN has no first choice
  result.perplexity_increase = std::expm1(mean_nll - reference_nll);
  result.perplexity_delta = result.reference_perplexity * result.perplexity_increase;
  if (const auto error = clustered_error(model, reference, mean_nll - reference_nll)) result.perplexity_delta_error = std::exp(mean_nll) * *error;
  return result;
}

/// NaN without a sign, which it has or has not as the processor likes: printed it is "nan".
void clear_sign_of_nan(double& value) {
  if (std::isnan(value)) value = NAN;
}

void clear_signs_of_nan(Judgement& judgement) {
  Quality& q = judgement.quality;
  for (double* value : {&q.mean_nll, &q.perplexity, &q.top1_accuracy}) clear_sign_of_nan(*value);
  if (q.bits_per_byte) clear_sign_of_nan(*q.bits_per_byte);
  for (Comparison& c : judgement.comparisons) {
    for (double* value : {&c.reference_perplexity, &c.reference_top1_accuracy, &c.kl_mean, &c.kl_median, &c.kl_p99, &c.kl_max, &c.top1_agreement, &c.perplexity_increase, &c.perplexity_delta}) clear_sign_of_nan(*value);
    for (std::optional<double>* value : {&c.shared_probability, &c.perplexity_delta_error})
      if (*value) clear_sign_of_nan(**value);
  }
}

/// What is known of the windows, whoever reads them.
Quality describe(const Windows& windows, const std::string& data_name) {
  Quality quality{.data = data_name, .convention = windows.description(), .windows = static_cast<int64_t>(windows.list.size()), .tokens = windows.tokens, .unused_tokens = windows.unused_tokens};
  for (const Window& window : windows.list) quality.scored_tokens += std::max<int64_t>(0, static_cast<int64_t>(window.tokens.size()) - window.first_scored);
  return quality;
}

}  // namespace

std::vector<Judgement> evaluate_all(const SideBySide& run, const Windows& windows, const std::string& data_name, const ForwardOptions& options, const RunContext& context) {
  const TokenScores scores = score_tokens(run, windows, options, context);
  const auto of = [&](auto member, size_t index) {
    std::vector<const typename std::remove_reference_t<decltype(scores.windows[0].*member)>::value_type*> result;
    for (const WindowScores& window : scores.windows) result.push_back(&(window.*member)[index]);
    return result;
  };
  int64_t bytes = 0;
  for (const Window& window : windows.list)
    for (size_t t = static_cast<size_t>(window.first_scored); t < window.byte_lengths.size(); ++t) bytes += window.byte_lengths[t];

  std::vector<Judgement> judgements;
  for (size_t m = 0; m < run.models.size(); ++m) {
    const ModelTokens tokens = of(&WindowScores::models, m);
    Judgement judgement{.quality = describe(windows, data_name)};
    Quality& quality = judgement.quality;
    quality.mean_nll = mean_nll_of(tokens);
    quality.perplexity = std::exp(quality.mean_nll);
    if (bytes > 0) quality.bits_per_byte = quality.mean_nll * static_cast<double>(quality.scored_tokens) / std::numbers::ln2 / static_cast<double>(bytes);
    quality.execution = find_execution(*run.models[m]);
    quality.kv_cache_bits = options.kv_cache_bits;
    quality.top1_accuracy = accuracy_of(tokens, quality.mean_nll);
    for (size_t r = 0; r < run.references.size(); ++r) {
      const size_t pair = m * run.references.size() + r;
      Comparison comparison = compare(tokens, of(&WindowScores::references, r), of(&WindowScores::pairs, pair));
      if (!run.reference_ids.empty()) comparison.shared_probability = mean_of(of(&WindowScores::pairs, pair), [](const PairScore& s) { return s.shared; });
      if (!scores.hidden.empty()) comparison.hidden_errors = scores.hidden[pair];
      judgement.comparisons.push_back(std::move(comparison));
    }
    clear_signs_of_nan(judgement);
    if (!judgement.comparisons.empty()) quality.comparison = judgement.comparisons.front();
    judgements.push_back(std::move(judgement));
  }
  return judgements;
}

Quality evaluate(const Model& model, const Model* reference, const Windows& windows, const std::string& data_name, const ForwardOptions& options, const RunContext& context, std::span<const int32_t> reference_ids) {
  SideBySide run{.models = {&model}, .reference_ids = reference_ids};
  if (reference) run.references.push_back(reference);
  return evaluate_all(run, windows, data_name, options, context).front().quality;
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
