// The evaluator's figures against the same figures computed from the oracle's logits by the textbook formulas.
#include "verify/quality.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "formats/scheme.h"
#include "passes/rounding.h"
#include "model/cut.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"
#include "verify/oracle.h"

using namespace llmc;

namespace {

struct Expected {
  double nll = 0, reference_nll = 0, kl = 0, kl_max = 0, hits = 0, agreements = 0, count = 0;
};

std::vector<double> log_softmax(const double* logits, int64_t count) {
  double sum = 0;
  const double highest = *std::max_element(logits, logits + count);
  for (int64_t i = 0; i < count; ++i) sum += std::exp(logits[i] - highest);
  std::vector<double> result;
  for (int64_t i = 0; i < count; ++i) result.push_back(logits[i] - highest - std::log(sum));
  return result;
}

Expected score_by_hand(const Model& model, const Model& reference, const Windows& windows) {
  Expected e;
  const int64_t vocabulary = model.config().vocabulary;
  for (const Window& window : windows.list) {
    const auto a = compute_oracle_logits(model, window.tokens), b = compute_oracle_logits(reference, window.tokens);
    for (size_t t = static_cast<size_t>(windows.first_scored(window)); t < window.tokens.size(); ++t) {
      const auto p = log_softmax(a.data() + (static_cast<int64_t>(t) - 1) * vocabulary, vocabulary), q = log_softmax(b.data() + (static_cast<int64_t>(t) - 1) * vocabulary, vocabulary);
      const auto token = static_cast<size_t>(window.tokens[t]);
      double kl = 0;
      for (size_t i = 0; i < p.size(); ++i) kl += std::exp(q[i]) * (q[i] - p[i]);
      const auto best = std::ranges::max_element(p) - p.begin(), reference_best = std::ranges::max_element(q) - q.begin();
      e.nll -= p[token], e.reference_nll -= q[token], e.kl += kl, e.kl_max = std::max(e.kl_max, kl), e.count += 1;
      e.hits += best == static_cast<std::ptrdiff_t>(token), e.agreements += best == reference_best;
    }
  }
  return e;
}

/// A tiny golden model with its linear weights rounded to 3 bits.
void coarsen(Model& model) {
  for (const PlacedTensor& placed : model.tensors())
    if (is_block_linear(placed)) placed.tensor->form = round_to_nearest(read_matrix(*placed.tensor).view(), parse_scheme("W3A16-channel"), DType::f32, {}, placed.tensor->name);
}

TokenData random_tokens(int64_t vocabulary) {
  TokenData data{.name = "random"};
  Random random(1, "tokens");
  for (int s = 0; s < 5; ++s) {
    data.sequences.emplace_back();
    for (int t = 0; t < 20; ++t) data.sequences.back().push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary))));
    data.byte_lengths.emplace_back(20, 3);
  }
  return data;
}

}  // namespace

TEST_CASE("perplexity, accuracy, KL and agreement equal the formulas on the oracle's logits", "[quality]") {
  for (const char* name : {"llama-gqa-tied", "gpt2-untied"}) {
    INFO(name);
    const auto directory = golden_root() / name;
    const Model reference = load_model(directory, {}, test::context());
    Model model = load_model(directory, {}, test::context());
    coarsen(model);
    const TokenData data = random_tokens(model.config().vocabulary);
    for (Convention convention : {Convention::all, Convention::second_half}) {
      const Windows windows = cut_windows(data, {.length = 20, .convention = convention}, model.config().context);
      const Expected e = score_by_hand(model, reference, windows);
      const Quality quality = evaluate(model, &reference, windows, "d", {}, test::context());
      // The fast pass is f32: its logits are good to about 1e-5, and the means no worse.
      CHECK(quality.scored_tokens == static_cast<int64_t>(e.count));
      CHECK(quality.mean_nll == Approx(e.nll / e.count).epsilon(1e-5));
      CHECK(quality.perplexity == Approx(std::exp(e.nll / e.count)).epsilon(1e-5));
      CHECK(quality.top1_accuracy == Approx(e.hits / e.count));
      CHECK(*quality.bits_per_byte == Approx(e.nll / std::log(2) / (3 * e.count)).epsilon(1e-5));
      REQUIRE(quality.comparison);
      CHECK(quality.comparison->reference_perplexity == Approx(std::exp(e.reference_nll / e.count)).epsilon(1e-5));
      CHECK(quality.comparison->kl_mean == Approx(e.kl / e.count).epsilon(1e-4));
      CHECK(quality.comparison->kl_max == Approx(e.kl_max).epsilon(1e-4));
      CHECK(quality.comparison->top1_agreement == Approx(e.agreements / e.count));
      CHECK(quality.comparison->perplexity_increase == Approx(std::exp((e.nll - e.reference_nll) / e.count) - 1).epsilon(1e-4));
      CHECK(quality.comparison->kl_mean > 0.001);  // 3 bits must show
      CHECK(*quality.comparison->perplexity_delta_error > 0);
    }
  }
}

TEST_CASE("a model beside itself differs in nothing", "[quality]") {
  const Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  const TokenData data = random_tokens(model.config().vocabulary);
  const Quality quality = evaluate(model, &model, cut_windows(data, {}, model.config().context), "d", {}, test::context());
  CHECK(quality.comparison->kl_mean == 0);
  CHECK(quality.comparison->kl_max == 0);
  CHECK(quality.comparison->top1_agreement == 1);
  CHECK(quality.comparison->perplexity_increase == 0);
  CHECK(quality.comparison->perplexity_delta_error == 0.0);
}

TEST_CASE("a model of fewer tokens is compared over those that it shares", "[quality]") {
  const Model reference = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  Kept kept;
  for (int64_t token = 0; token < reference.config().vocabulary; token += 2) kept.tokens.push_back(token);
  const Model model = cut_model(load_model(golden_root() / "llama-gqa-tied", {}, test::context()), kept);
  const std::vector<int32_t>& ids = model.origin().tokens;
  TokenData data = random_tokens(model.config().vocabulary), same = data;
  for (auto& sequence : same.sequences)
    for (int32_t& token : sequence) token = ids.at(static_cast<size_t>(token));
  const Windows windows = cut_windows(data, {}, model.config().context), of_reference = cut_windows(same, {}, model.config().context);
  const Quality quality = evaluate(model, &reference, windows, "d", {}, test::context(), ids);
  CHECK(quality.comparison->kl_max < 1e-6);  // the logits of shared tokens are the same but for the order of f32 sums
  CHECK(quality.comparison->reference_perplexity == Approx(evaluate(reference, nullptr, of_reference, "d", {}, test::context()).perplexity));
  CHECK(quality.comparison->reference_perplexity > quality.perplexity);  // the reference gives some probability to tokens that went

  CHECK(*quality.comparison->shared_probability > 0.2);  // half of the tokens of a random model
  CHECK(*quality.comparison->shared_probability < 0.8);
  CHECK_THROWS_WITH(evaluate(model, &reference, windows, "d", {}, test::context()), Catch::Matchers::Contains("vocabulary of"));
}

TEST_CASE("figures are the same bits for any number of threads", "[quality]") {
  const Model reference = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  coarsen(model);
  const TokenData data = random_tokens(model.config().vocabulary);
  const Windows windows = cut_windows(data, {}, model.config().context);
  std::vector<Quality> results;
  for (int threads : {1, 2, 7}) with_threads(threads, [&] { results.push_back(evaluate(model, &reference, windows, "d", {}, test::context())); });
  for (const Quality& other : {results[1], results[2]}) {
    CHECK(other.mean_nll == results[0].mean_nll);
    CHECK(other.comparison->kl_mean == results[0].comparison->kl_mean);
    CHECK(other.comparison->kl_p99 == results[0].comparison->kl_p99);
  }
}

TEST_CASE("NaN logits give NaN figures, never good ones", "[quality]") {
  const Model reference = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  for (const PlacedTensor& placed : model.tensors())
    if (placed.row->role == Role::final_norm) {
      Matrix values = read_matrix(*placed.tensor);
      values.values()[0] = NAN;
      placed.tensor->form = make_floats(*placed.tensor, values.view());
    }
  const TokenData data = random_tokens(model.config().vocabulary);
  const Windows windows = cut_windows(data, {}, model.config().context);
  const Quality quality = evaluate(model, &reference, windows, "d", {}, test::context());
  CHECK(std::isnan(quality.perplexity));
  CHECK(std::isnan(quality.comparison->kl_mean));
  CHECK(std::isnan(quality.comparison->kl_max));
  CHECK(std::isnan(quality.comparison->perplexity_increase));
  CHECK(std::isnan(check_against_oracle(model, windows, {}, 0).max_logit_difference));
}
