// Owns the quality of a model on text, alone or side by side with a reference: perplexity, KL divergence, agreement.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/run_context.h"
#include "model/forward.h"
#include "model/model.h"
#include "verify/windows.h"

namespace llmc {

/// How a model's predictions relate to a reference's on the same tokens. KL divergence is KL(reference ‖ model) in nats.
struct Comparison {
  double reference_perplexity = 0;
  double reference_top1_accuracy = 0;
  double kl_mean = 0;
  double kl_median = 0;
  double kl_p99 = 0;
  double kl_max = 0;
  double top1_agreement = 0;                       ///< share of positions where both rank the same token first
  double perplexity_increase = 0;                  ///< perplexity / reference − 1
  double perplexity_delta = 0;                     ///< perplexity − reference
  std::optional<double> perplexity_delta_error;    ///< standard error of the delta, windows as clusters; none below 2 windows
};

struct Quality {
  std::string data;
  std::string convention;
  int64_t windows = 0;
  int64_t tokens = 0;         ///< in the data
  int64_t unused_tokens = 0;
  int64_t scored_tokens = 0;
  double mean_nll = 0;        ///< nats per scored token
  double perplexity = 0;
  std::optional<double> bits_per_byte;
  double top1_accuracy = 0;   ///< share of scored tokens that the model ranks first
  std::optional<Comparison> comparison;
};

/// Runs the model, and the reference beside it unless nullptr, over the windows. Both in the same precision. Logits are
/// held for a few positions at a time, weights for one block. The figures are the same for any number of threads.
/// Throws Error(input) when the vocabularies differ.
Quality evaluate(const Model& model, const Model* reference, const Windows& windows, const std::string& data_name, const ForwardOptions& options, const RunContext& context);

/// How closely the fast pass and the oracle agree on the same tokens.
struct OracleAgreement {
  int64_t positions = 0;
  double max_logit_difference = 0;
  double mean_logit_difference = 0;
  double max_logit = 0;  ///< the scale of the logits, max |logit|
};

/// Compares them on a sample of the run's own tokens: one window picked by `seed`, as many of its tokens as take the
/// oracle about a second.
OracleAgreement check_against_oracle(const Model& model, const Windows& windows, const ForwardOptions& options, uint64_t seed);

}  // namespace llmc
