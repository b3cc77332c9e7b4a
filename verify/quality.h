// Owns the quality of a model on text, alone or side by side with a reference: perplexity, KL divergence, agreement.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/run_context.h"
#include "model/forward.h"
#include "model/model.h"
#include "model/quantized_linear.h"
#include "verify/token_scores.h"
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
  std::optional<double> shared_probability;        ///< mean of what the reference gives to the model's tokens, where it has others too
  double top1_agreement = 0;                       ///< share of positions where both rank the same token first
  double perplexity_increase = 0;                  ///< perplexity / reference − 1
  double perplexity_delta = 0;                     ///< perplexity − reference
  std::optional<double> perplexity_delta_error;    ///< standard error of the delta, windows as clusters; none below 2 windows
  std::vector<HiddenError> hidden_errors;          ///< by block; empty unless measured
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
  Execution execution = Execution::floats;             ///< of the layers whose input is rounded; floats when there are none
  std::optional<int> kv_cache_bits = std::nullopt;     ///< of the model's simulated cache; the reference has none
  std::optional<Comparison> comparison;
};

/// What a run of several models says about one of them.
struct Judgement {
  Quality quality;                      ///< its comparison is the first of the following
  std::vector<Comparison> comparisons;  ///< with each reference
};

/// Runs all models and references side by side over the windows (token_scores.h says how). With reference_ids, tokens that only the
/// references have: they are given the models' tokens, their perplexity is over all they have, their first choice may be one of
/// them, and KL divergence is over the shared ones (their probabilities scaled to sum to 1 there).
std::vector<Judgement> evaluate_all(const SideBySide& run, const Windows& windows, const std::string& data_name, const ForwardOptions& options, const RunContext& context);

/// The same of one model, and the reference beside it unless nullptr.
Quality evaluate(const Model& model, const Model* reference, const Windows& windows, const std::string& data_name, const ForwardOptions& options, const RunContext& context, std::span<const int32_t> reference_ids = {});

/// How closely the fast pass and the oracle agree on the same tokens.
struct OracleAgreement {
  int64_t positions = 0;
  double max_logit_difference = 0;
  double mean_logit_difference = 0;
  double max_logit = 0;  ///< the scale of the logits, max |logit|
  /// Mean |Δ| of the oracle's own logits when each layer's input is first rounded to 14 bits. For models whose inputs or
  /// cache are rounded to codes: there the two passes cannot agree to the last bits, however right they are. A value next to
  /// the border between two codes takes the other one after a change of 1e-7, the next layer sees a change of a whole step,
  /// and that moves further values across their borders. This figure is an upper estimate of what such flips do on these very
  /// tokens: f32 keeps some 20 bits of a sum, and with 14 there are enough flips not to depend on chance. So
  /// `mean_logit_difference` should be no more than about that, and is more when the passes mean different things.
  std::optional<double> rounding_difference = std::nullopt;
};

/// Compares them on a sample of the run's own tokens: one window picked by `seed`, as many of its tokens as take the
/// oracle about a second.
OracleAgreement check_against_oracle(const Model& model, const Windows& windows, const ForwardOptions& options, uint64_t seed);

}  // namespace llmc
