// Answers of models against the same from the oracle's logits, and confidence intervals against published ones.
#include "verify/choices.h"

#include <cmath>

#include "core/parallel.h"
#include "formats/scheme.h"
#include "passes/rounding.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"
#include "verify/oracle.h"

using namespace llmc;

TEST_CASE("Confidence intervals of shares are Wilson's") {
  // Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29
  const auto check = [](int64_t hits, int64_t trials, double low, double high) {
    const Share share = estimate_share(hits, trials);
    CHECK(share.value == Approx(static_cast<double>(hits) / static_cast<double>(trials)));
    CHECK(share.low == Approx(low).margin(5e-5));
    CHECK(share.high == Approx(high).margin(5e-5));
  };
  check(81, 263, 0.2553, 0.3662);
  check(15, 148, 0.0624, 0.1605);
  check(0, 20, 0, 0.1611);
  check(1, 29, 0.0061, 0.1718);
}

namespace {

/// log p of the tokens from first_scored on, by the textbook.
double score_choices_by_hand(const Model& model, const Choice& choice) {
  const std::vector<double> logits = compute_oracle_logits(model, choice.tokens);
  const auto vocabulary = static_cast<size_t>(model.config().vocabulary);
  double sum = 0;
  for (auto t = static_cast<size_t>(choice.first_scored); t < choice.tokens.size(); ++t) {
    const double* row = logits.data() + (t - 1) * vocabulary;
    double norm = 0;
    for (size_t i = 0; i < vocabulary; ++i) norm += std::exp(row[i]);
    sum += row[choice.tokens[t]] - std::log(norm);
  }
  return sum;
}

}  // namespace

TEST_CASE("A model answers with the likeliest choice, and is compared with a reference question by question") {
  const auto directory = golden_root() / "llama-gqa-tied";
  const Model reference = load_model(directory, {}, test::context());
  Model model = load_model(directory, {}, test::context());
  for (const PlacedTensor& placed : model.tensors())
    if (is_block_linear(placed)) placed.tensor->form = round_to_nearest(read_matrix(*placed.tensor).view(), parse_scheme("W2A16-channel"), DType::f32, {}, placed.tensor->name);
  Random random(5, "questions");
  ChoiceData data{.name = "q"};
  for (int i = 0; i < 40; ++i) {
    Question question{.answer = static_cast<size_t>(i % 3)};
    for (int c = 0; c < 3; ++c) {
      Choice choice{.first_scored = 1 + i % 4, .bytes = 3 + 5 * c};
      for (int t = 0; t < 6 + c; ++t) choice.tokens.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(model.config().vocabulary))));
      question.choices.push_back(choice);
    }
    data.questions.push_back(question);
  }
  data.questions[0].choices[1] = data.questions[0].choices[2] = data.questions[0].choices[0];  // as likely: no answer

  double right = 0, right_per_byte = 0, reference_right = 0, same = 0, squares = 0;
  std::vector<double> differences;
  for (size_t q = 0; q < data.questions.size(); ++q) {
    const Question& question = data.questions[q];
    const auto best = [&](const Model& of, bool per_byte) {
      std::vector<double> sums;
      for (const Choice& choice : question.choices) sums.push_back(score_choices_by_hand(of, choice) / (per_byte ? static_cast<double>(choice.bytes) : 1));
      return q == 0 && !per_byte ? -1 : static_cast<int>(std::ranges::max_element(sums) - sums.begin());
    };
    const auto answer = static_cast<int>(question.answer);
    const int own = best(model, false), other = best(reference, false);
    right += own == answer, reference_right += other == answer, same += own == other;
    right_per_byte += best(model, true) == answer;
    differences.push_back((own == answer) - (other == answer));
  }
  const double mean = (right - reference_right) / 40;
  for (double difference : differences) squares += (difference - mean) * (difference - mean);

  data.questions[0].choices[1].bytes = data.questions[0].choices[2].bytes = 8;
  const SideBySide run{.models = {&model, &reference}, .references = {&reference}};
  const auto found = judge_choices(run, data, {}, test::context());
  REQUIRE(found.size() == 2);
  CHECK(found[0].questions == 40);
  CHECK(found[0].accuracy.value == Approx(right / 40));
  CHECK(std::abs(found[0].accuracy_per_byte.value - right_per_byte / 40) <= 1.0 / 40 + 1e-12);  // question 0 has other bytes
  REQUIRE(found[0].comparisons.size() == 1);
  const ChoiceComparison& comparison = found[0].comparisons[0];
  CHECK(comparison.reference_accuracy == Approx(reference_right / 40));
  CHECK(comparison.agreement == Approx(same / 40));
  CHECK(same < 40);
  CHECK(comparison.difference == Approx(mean).margin(1e-12));
  CHECK(comparison.difference_error.value() == Approx(std::sqrt(squares / 39 / 40)));
  ChoiceData one = data;
  one.questions.resize(1);
  CHECK_FALSE(judge_choices(run, one, {}, test::context())[0].comparisons[0].difference_error);  // it has no spread
  CHECK(found[1].comparisons[0].agreement == 1);
  CHECK(found[1].accuracy.value == Approx(reference_right / 40));
  for (int threads : {1, 5}) with_threads(threads, [&] { CHECK(judge_choices(run, data, {}, test::context())[0].accuracy_per_byte.value == found[0].accuracy_per_byte.value); });
}
