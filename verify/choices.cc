#include "verify/choices.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace llmc {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// What a model chose, question by question; −1: nothing.
struct Answers {
  std::vector<int> by_sum, by_mean;
  bool are_numbers = true;  ///< no score is NaN
};

/// The place of the one highest value; −1 when several are.
int only_highest(const std::vector<double>& values) {
  const auto best = std::ranges::max_element(values);
  if (std::ranges::count(values, *best) != 1) return -1;
  return static_cast<int>(best - values.begin());
}

Answers choose(const ChoiceData& data, const TokenScores& scores, std::vector<std::vector<TokenScore>> WindowScores::* side, size_t model) {
  Answers answers;
  size_t window = 0;
  for (const Question& question : data.questions) {
    std::vector<double> sums, means;
    for (const Choice& choice : question.choices) {
      double sum = 0;
      for (const TokenScore& score : (scores.windows[window++].*side)[model]) sum -= score.nll;
      if (std::isnan(sum)) answers.are_numbers = false;
      sums.push_back(sum);
      means.push_back(sum / static_cast<double>(std::max<int64_t>(1, choice.bytes)));
    }
    answers.by_sum.push_back(only_highest(sums));
    answers.by_mean.push_back(only_highest(means));
  }
  return answers;
}

Share share_right(const ChoiceData& data, const std::vector<int>& chosen, bool are_numbers) {
  if (!are_numbers) return {.value = nan, .low = nan, .high = nan};
  int64_t right = 0;
  for (size_t i = 0; i < chosen.size(); ++i) right += chosen[i] == static_cast<int>(data.questions[i].answer);
  return estimate_share(right, std::ssize(chosen));
}

ChoiceComparison compare_answers(const ChoiceData& data, const Answers& of_model, const Answers& of_reference) {
  const std::vector<int>&model = of_model.by_sum, &reference = of_reference.by_sum;
  const double accuracy = share_right(data, reference, of_reference.are_numbers).value;
  if (!of_model.are_numbers || !of_reference.are_numbers) return {.reference_accuracy = accuracy, .agreement = nan, .difference = nan, .difference_error = std::nullopt};
  const auto count = static_cast<double>(data.questions.size());
  double same = 0, gained = 0, lost = 0;
  for (size_t i = 0; i < model.size(); ++i) {
    const auto answer = static_cast<int>(data.questions[i].answer);
    same += model[i] == reference[i];
    gained += model[i] == answer && reference[i] != answer;
    lost += model[i] != answer && reference[i] == answer;
  }
  const double difference = (gained - lost) / count;
  ChoiceComparison result{.reference_accuracy = accuracy, .agreement = same / count, .difference = difference, .difference_error = std::nullopt};
  if (count > 1) result.difference_error = std::sqrt(((gained + lost) / count - difference * difference) / (count - 1));
  return result;
}

}  // namespace

Share estimate_share(int64_t hits, int64_t trials) {
  constexpr double z = 1.959963984540054;  // of 95 %
  const auto n = static_cast<double>(trials), share = static_cast<double>(hits) / n;
  const double centre = (share + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z / (1 + z * z / n) * std::sqrt(share * (1 - share) / n + z * z / (4 * n * n));
  return {.value = share, .low = std::max(0.0, centre - half), .high = std::min(1.0, centre + half)};
}

std::vector<ChoiceQuality> judge_choices(const SideBySide& run, const ChoiceData& data, const ForwardOptions& options, const RunContext& context) {
  Windows windows;
  for (const Question& question : data.questions)
    for (const Choice& choice : question.choices) windows.list.push_back({.tokens = choice.tokens, .byte_lengths = {}, .first_scored = choice.first_scored});
  const TokenScores scores = score_tokens(run, windows, options, context);
  std::vector<Answers> of_references;
  for (size_t i = 0; i < run.references.size(); ++i) of_references.push_back(choose(data, scores, &WindowScores::references, i));
  std::vector<ChoiceQuality> qualities;
  const auto count = static_cast<int64_t>(data.questions.size());
  for (size_t i = 0; i < run.models.size(); ++i) {
    const Answers answers = choose(data, scores, &WindowScores::models, i);
    ChoiceQuality quality{.data = data.name, .questions = count, .starts_with_bos = data.starts_with_bos, .accuracy = share_right(data, answers.by_sum, answers.are_numbers), .accuracy_per_byte = share_right(data, answers.by_mean, answers.are_numbers)};
    for (const Answers& reference : of_references) quality.comparisons.push_back(compare_answers(data, answers, reference));
    qualities.push_back(std::move(quality));
  }
  return qualities;
}

}  // namespace llmc
