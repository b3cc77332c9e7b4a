// Owns the list of tensors that an architecture's rows ask for with a config.
#pragma once

#include <string>
#include <vector>

#include "core/tensor.h"
#include "model/architecture.h"
#include "model/model.h"

namespace llmc {

struct ExpectedTensor {
  const TensorRow* row;
  Part part;
  int64_t block;
  std::string name;
  Shape shape;
  int64_t expert = -1;  ///< of that expert, or of that head; or of no single one
};

/// Outer ones first, then block by block in the order of the rows.
std::vector<ExpectedTensor> list_expected_tensors(const Architecture& architecture, const ModelConfig& config);

}  // namespace llmc
