// Owns the measured speed of the products that skip zeros, beside the dense ones of the same weights.
#pragma once

#include <string>
#include <vector>

#include "core/run_context.h"
#include "model/forward.h"
#include "model/model.h"

namespace llmc {

/// One weight whose zeros the forward pass skips. Times are medians of a few runs over the same tokens, on one thread, in
/// processor time.
struct ProductSpeed {
  std::string tensor;
  double zeros = 0;           ///< share of the weight
  double dense_seconds = 0;   ///< with every zero multiplied
  double sparse_seconds = 0;  ///< with the zeros skipped

  double ratio() const { return dense_seconds / sparse_seconds; }
};

struct ProductSpeeds {
  int64_t weights = 0;                ///< linear weights of the model
  std::vector<ProductSpeed> skipped;  ///< those whose zeros are skipped, in the order of model.tensors()

  double dense_seconds() const;
  double sparse_seconds() const;
  double ratio() const { return dense_seconds() / sparse_seconds(); }
};

inline constexpr int64_t measured_tokens = 64;  ///< that a product is timed with

/// Runs each weight whose zeros the forward pass of `options` skips both ways, one after the other.
ProductSpeeds measure_products(const Model& model, const ForwardOptions& options, const RunContext& context);

}  // namespace llmc
