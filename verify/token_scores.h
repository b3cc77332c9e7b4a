// Owns running models side by side over windows of tokens: what each says about every scored token, and how two differ.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/run_context.h"
#include "model/forward.h"
#include "model/model.h"
#include "verify/windows.h"

namespace llmc {

/// What a model says about a token.
struct TokenScore {
  double nll = 0;    ///< −log of its probability, in nats
  bool hit = false;  ///< ranked first
};

/// How a model's prediction relates to a reference's at the same place.
struct PairScore {
  double kl = 0;        ///< KL(reference ‖ model) in nats
  double shared = 1;    ///< probability that the reference gives to tokens that the model has too
  bool agrees = false;  ///< both rank the same token first
};

/// How far a model's hidden states behind a block are from a reference's, over all tokens.
struct HiddenError {
  double relative_error = 0;  ///< ‖h − h_ref‖ / ‖h_ref‖ (Frobenius)
  double cosine = 0;          ///< mean over tokens of h · h_ref / (‖h‖ ‖h_ref‖)
};

enum class HiddenErrors { skipped, measured };

/// Models, and references that they are held to, for one run. All have vocabularies of the same size unless ids are given.
struct SideBySide {
  std::vector<const Model*> models;
  std::vector<const Model*> references;        ///< they keep their caches in floats
  std::span<const int32_t> reference_ids = {};  ///< of the models' tokens in the references' vocabulary; empty: the same
  HiddenErrors hidden_errors = HiddenErrors::skipped;
  int64_t hidden_bytes = int64_t{512} << 20;  ///< hidden states held at once, over all models: so many windows are worked on together, at least one
};

/// Of one window, its scored tokens in order.
struct WindowScores {
  std::vector<std::vector<TokenScore>> models;
  std::vector<std::vector<TokenScore>> references;
  std::vector<std::vector<PairScore>> pairs;  ///< [model · references + reference]
};

struct TokenScores {
  std::vector<WindowScores> windows;
  std::vector<std::vector<HiddenError>> hidden;  ///< by pair and block; empty unless measured
};

/// Runs them in the same precision. Logits are held for a few positions at a time, weights for one block of one model, hidden
/// states for as many windows as hidden_bytes holds. The figures are the same for any number of them and of threads. Throws Error(input)
/// when vocabularies differ in size and no ids are given, Error(usage) when hidden states are to be compared of models that
/// differ in blocks or hidden size.
TokenScores score_tokens(const SideBySide& run, const Windows& windows, const ForwardOptions& options, const RunContext& context);

/// KL(reference ‖ model) in nats of the predictions that two rows of logits are (Kullback 1951).
double kl_divergence(std::span<const float> reference, std::span<const float> model);

}  // namespace llmc
