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
    for (size_t t = static_cast<size_t>(window.first_scored); t < window.tokens.size(); ++t) {
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

TEST_CASE("Figures are the same however many windows are worked on together", "[quality]") {
  const Model exact = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  Model coarse = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  coarsen(coarse);
  const TokenData data = random_tokens(exact.config().vocabulary);
  const Windows windows = cut_windows(data, {.length = 10}, exact.config().context);
  SideBySide run{.models = {&coarse, &exact}, .references = {&exact}, .hidden_errors = HiddenErrors::measured};
  const auto expected = evaluate_all(run, windows, "d", {}, test::context());
  for (int64_t hidden : {int64_t{1}, 3 * exact.config().hidden * 10 * int64_t{4} * 3}) {  // one window, and three, of the ten
    run.hidden_bytes = hidden;
    const auto found = evaluate_all(run, windows, "d", {}, test::context());
    for (size_t m = 0; m < 2; ++m) {
      CHECK(found[m].quality.mean_nll == expected[m].quality.mean_nll);
      CHECK(found[m].comparisons[0].kl_mean == expected[m].comparisons[0].kl_mean);
      CHECK(found[m].comparisons[0].kl_max == expected[m].comparisons[0].kl_max);
      for (size_t block = 0; block < expected[m].comparisons[0].hidden_errors.size(); ++block) {
        CHECK(found[m].comparisons[0].hidden_errors[block].relative_error == expected[m].comparisons[0].hidden_errors[block].relative_error);
        CHECK(found[m].comparisons[0].hidden_errors[block].cosine == expected[m].comparisons[0].hidden_errors[block].cosine);
      }
    }
  }
}

TEST_CASE("Models of other vocabularies are named for what they are", "[quality]") {
  Kept kept;
  for (int64_t token = 0; token < 8; ++token) kept.tokens.push_back(token);
  const Model whole = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  const Model cut = cut_model(load_model(golden_root() / "llama-gqa-tied", {}, test::context()), kept);
  TokenData data{.name = "d", .sequences = {{1, 2, 3, 4}}};
  const Windows windows = cut_windows(data, {}, whole.config().context);
  const auto refusal = [&](const SideBySide& run) {
    try {
      evaluate_all(run, windows, "d", {}, test::context());
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK_THAT(refusal({.models = {&whole, &cut}}), Catch::Matchers::Contains("vocabulary of 8, but ") && !Catch::Matchers::Contains("reference"));
  CHECK_THAT(refusal({.models = {&whole}, .references = {&cut}}), Catch::Matchers::Contains("but the reference ") && Catch::Matchers::Contains("has 8"));
}

TEST_CASE("Several models beside several references have the figures of each pair alone, and hidden states block by block", "[quality]") {
  const auto directory = golden_root() / "llama-gqa-tied";
  const Model exact = load_model(directory, {}, test::context()), same = load_model(directory, {}, test::context());
  Model coarse = load_model(directory, {}, test::context());
  coarsen(coarse);
  const TokenData data = random_tokens(exact.config().vocabulary);
  const Windows windows = cut_windows(data, {.length = 20}, exact.config().context);
  const SideBySide run{.models = {&coarse, &exact}, .references = {&same, &coarse}, .hidden_errors = HiddenErrors::measured};
  const auto found = evaluate_all(run, windows, "d", {}, test::context());
  REQUIRE(found.size() == 2);
  for (size_t m = 0; m < 2; ++m) {
    REQUIRE(found[m].comparisons.size() == 2);
    for (size_t r = 0; r < 2; ++r) {
      const Quality alone = evaluate(*run.models[m], run.references[r], windows, "d", {}, test::context());
      CHECK(found[m].quality.perplexity == alone.perplexity);
      CHECK(found[m].comparisons[r].kl_mean == alone.comparison->kl_mean);
      CHECK(found[m].comparisons[r].perplexity_delta_error == alone.comparison->perplexity_delta_error);
      CHECK(found[m].comparisons[r].top1_agreement == alone.comparison->top1_agreement);
      CHECK(alone.comparison->hidden_errors.empty());
    }
  }
  for (const HiddenError& error : found[1].comparisons[0].hidden_errors) CHECK((error.relative_error == 0 && error.cosine == Approx(1)));

  const auto& errors = found[0].comparisons[0].hidden_errors;
  REQUIRE(errors.size() == static_cast<size_t>(exact.config().layers));
  const Forward of_exact(exact, {}), of_coarse(coarse, {});
  std::vector<double> apart(errors.size()), whole(errors.size()), cosines(errors.size());
  for (const Window& window : windows.list) {
    Matrix a(20, exact.config().hidden), b(20, exact.config().hidden);
    of_exact.embed(window.tokens, a.view());
    of_coarse.embed(window.tokens, b.view());
    for (size_t block = 0; block < errors.size(); ++block) {
      of_exact.run_block(*of_exact.load_block(static_cast<int64_t>(block)), a.view());
      of_coarse.run_block(*of_coarse.load_block(static_cast<int64_t>(block)), b.view());
      for (int64_t r = 0; r < 20; ++r) {
        double dot = 0, aa = 0, bb = 0;
        for (int64_t c = 0; c < a.cols(); ++c) {
          const double x = a.row(r)[c], y = b.row(r)[c];
          dot += x * y, aa += x * x, bb += y * y, apart[block] += (x - y) * (x - y);
        }
        whole[block] += aa;
        cosines[block] += dot / std::sqrt(aa * bb) / 100;
      }
    }
  }
  for (size_t block = 0; block < errors.size(); ++block) {
    CHECK(errors[block].relative_error == Approx(std::sqrt(apart[block] / whole[block])));
    CHECK(errors[block].relative_error > 0.01);
    CHECK(errors[block].cosine == Approx(cosines[block]));
  }
  const Model deeper = load_model(golden_root() / "llama-bias", {}, test::context());
  if (deeper.config().layers != exact.config().layers || deeper.config().hidden != exact.config().hidden)
    CHECK_THROWS_WITH(evaluate_all({.models = {&deeper}, .references = {&exact}, .hidden_errors = HiddenErrors::measured}, windows, "d", {}, test::context()), Catch::Matchers::Contains("cannot be compared") || Catch::Matchers::Contains("vocabulary of"));
}
