// Owns the error that compression left in each weight, measured on what was read back from disk.
#pragma once

#include <string>
#include <vector>

#include "core/run_context.h"
#include "model/model.h"

namespace llmc {

/// One tensor of the original against its counterpart.
struct TensorError {
  std::string name;
  double sqnr_db = 0;      ///< 10·log10(Σx² / Σ(x − y)²); infinite when nothing changed
  double max_error = 0;    ///< max |x − y|
  int64_t zeros = 0;       ///< weights of the counterpart that are exactly 0
  int64_t count = 0;
};

/// Compares tensor by tensor, one in memory at a time and per thread, in the order of compressed.tensors().
std::vector<TensorError> measure_tensor_errors(const Model& original, const Model& compressed, const RunContext& context);

}  // namespace llmc
