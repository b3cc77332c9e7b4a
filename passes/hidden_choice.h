// Owns the choice of the hidden dimensions that go, of the whole residual stream together, and what their loss does to norms.
#pragma once

#include <cstdint>
#include <vector>

#include "passes/pass.h"

namespace llmc {

/// Which hidden dimensions stay, and how large each is where the output head reads them.
struct HiddenChoice {
  std::vector<int64_t> kept;             ///< ascending; empty: all
  std::vector<double> head_mean_square;  ///< [hidden]: of the last hidden states over their root mean square; empty when it was not measured
};

/// By the sum of all squared weights that read or write a dimension.
HiddenChoice choose_hidden_by_magnitude(const Model& model, int64_t kept);

/// By what the layers that read the stream lose: Σ_j ‖W_j‖² E[x_j²], of each norm's readers as a share of their whole, summed
/// over the norms. One more sweep, in which nothing is changed.
HiddenChoice choose_hidden_by_activation(Model& model, int64_t kept, const PassContext& context);

/// RMSNorm of fewer dimensions: where the ones that went would be 0, its weights times √(before / after) leave its output as
/// it was. The final norm also makes up for the share of the last states' size that went, where that was measured.
void rescale_norms(Model& model, const HiddenChoice& choice, int64_t before);

}  // namespace llmc
