// Owns the dry run: what a run would do to every weight, what it would give and take, before any work is done.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "passes/compress.h"

namespace llmc {

struct PlannedTensor {
  std::string name;
  Shape shape;
  std::string treatment;
  double bits = 0;  ///< expected bits per weight, scales included
};

struct DryRun {
  std::vector<PlannedTensor> tensors;
  uint64_t source_bytes = 0;
  uint64_t estimated_bytes = 0;
  uint64_t estimated_memory = 0;   ///< peak resident bytes, mapped source files not counted
  double evaluation_products = 0;  ///< multiply-adds to judge original and artifact
};

/// Loads and checks model, recipe and evaluation data as the run itself would. Throws as compress() does.
DryRun plan_run(const CompressRequest& request, const RunContext& context);

nlohmann::json to_json(const DryRun& plan);

}  // namespace llmc
