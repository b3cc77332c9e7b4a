// Owns the maths of removing whole structures (feed-forward channels, key/value groups) that a layer reads: which of them cost
// least, and what the layer's other weights become to make up for them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "calib/input_statistics.h"
#include "core/tensor.h"

namespace llmc {

/// The `kept` structures with the highest scores, ascending; of equal ones the first go.
std::vector<int64_t> keep_highest(std::span<const double> scores, int64_t kept);

/// Structure s is columns [s · width, (s + 1) · width) of a weight.
std::vector<int64_t> columns_of(std::span<const int64_t> structures, int64_t width);

/// E‖W_s x_s‖² of each structure but for correlations between its columns: Σ_j ‖W_j‖² E[x_j²].
std::vector<double> score_by_activation(ConstMatrixView weights, std::span<const float> mean_square, int64_t width);

/// The derivative of the loss when everything that a structure gives the layer grows together: Σ W_s · G_s over the entries, with
/// `gradient` G of the weights (Molchanov 2019, of one sample).
std::vector<double> slope_of_structures(ConstMatrixView weights, ConstMatrixView gradient, int64_t width);

/// Removes structures one after the other, each time the one whose removal costs least once the columns that are left made up
/// for it: tr(W_s ([H⁻¹]_ss)⁻¹ W_sᵀ), after which W and H⁻¹ are those of what is left (Kurtić 2023, ZipLM; Hassibi 1993).
/// Of many, a 256th of those to go at a time. H is `second_moment` + λ. In f64; returns those that stay, ascending.
std::vector<int64_t> keep_by_loss(ConstMatrixView weights, ConstMatrixView second_moment, int64_t width, int64_t kept, double damping, const std::string& where);

/// What a layer becomes: weights [out, in] that are 0 in the columns that go, and what its bias changes by.
struct FittedLayer {
  Matrix weights;
  std::vector<float> bias_change;  ///< [out]; empty when the layer has no bias to take it up
};

/// Whether a layer has a bias that takes up a shift of the mean.
enum class Offset { none, bias };

/// The minimum over V, 0 outside the kept columns, of E‖W x̃ + r − V x‖² + λ ‖V − W‖² on those columns: x is the layer's input as
/// it is, x̃ the float model's and r what the residual stream lacks before the layer adds to it, where the statistics have their
/// moments (else x̃ = x, r = 0). λ = damping · mean of the second moment's diagonal.
FittedLayer fit_kept(ConstMatrixView weights, const InputStatistics& statistics, std::span<const int64_t> kept_columns, Offset offset, double damping, const std::string& where);

/// The second moment around the mean where a bias takes up the mean.
Matrix moment_for(const InputStatistics& statistics, Offset offset);

}  // namespace llmc
