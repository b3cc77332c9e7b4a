// Owns how often models find the right one of several answers the likeliest.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "calib/choice_data.h"
#include "verify/token_scores.h"

namespace llmc {

/// A share of n independent trials with its 95 % confidence interval (Wilson 1927).
struct Share {
  double value = 0;
  double low = 0;
  double high = 0;
};
Share estimate_share(int64_t hits, int64_t trials);

/// How a model's answers relate to a reference's to the same questions.
struct ChoiceComparison {
  double reference_accuracy = 0;
  double agreement = 0;      ///< share of questions where both choose the same
  double difference = 0;     ///< of accuracies, model − reference
  std::optional<double> difference_error;  ///< its standard error, questions in pairs; none of a single question
};

/// A model's answers to a file's questions. It chooses what has the highest log-probability, summed over the choice's tokens;
/// where two have the same, the question counts as missed. Where any sum is NaN, all shares are: that is no measurement.
struct ChoiceQuality {
  std::string data;
  int64_t questions = 0;
  bool starts_with_bos = false;
  Share accuracy;
  Share accuracy_per_byte;  ///< choosing by log-probability per byte of the choice's text
  std::vector<ChoiceComparison> comparisons;  ///< with each reference
};

/// Of each model, in order.
std::vector<ChoiceQuality> judge_choices(const SideBySide& run, const ChoiceData& data, const ForwardOptions& options, const RunContext& context);

}  // namespace llmc
