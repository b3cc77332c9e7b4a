// Owns the error that compression left in each weight, measured on what was read back from disk.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/run_context.h"
#include "model/model.h"

namespace llmc {

/// How the grids of a quantized tensor fit the original's weights.
struct GridFit {
  int64_t clipped = 0;     ///< weights more than half a step beyond the last value of their grid: rounding alone cannot explain their error
  double scale_min = 0;    ///< of what levels are multiplied by, without sign; both NaN for codebooks, which have no scales
  double scale_max = 0;
};

/// How well the weights lie in the grids of `codes`; outliers count as what is left of them for the codes.
GridFit measure_grid_fit(ConstMatrixView original, const QuantizedMatrix& codes);

/// One tensor of the original against its counterpart.
struct TensorError {
  std::string name;
  double sqnr_db = 0;      ///< 10·log10(Σx² / Σ(x − y)²); infinite when nothing changed
  double max_error = 0;    ///< max |x − y|
  int64_t zeros = 0;       ///< weights of the counterpart that are exactly 0
  int64_t count = 0;
  std::optional<GridFit> grid;  ///< of a counterpart that holds codes
};

/// Compares tensor by tensor, one in memory at a time and per thread, in the order of compressed.tensors(). `origin` says which
/// blocks are whose; of a tensor that has another shape there, or none, only zeros are counted, its errors are NaN.
std::vector<TensorError> measure_tensor_errors(const Model& original, const Model& compressed, const Origin& origin, const RunContext& context);

}  // namespace llmc
