// Owns the bundle that a student is trained from elsewhere: its first weights, tokens, and what the teacher says of them.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>

#include "calib/calibration_options.h"
#include "core/output.h"
#include "core/run_context.h"
#include "passes/soft_targets.h"

namespace llmc {

struct BundleRequest {
  std::filesystem::path teacher;
  std::filesystem::path student;  ///< a float checkpoint
  std::filesystem::path output;
  CalibrationOptions data;
  SoftTargetOptions targets;
  uint64_t seed = 0;              ///< picks samples when not all are wanted
  std::set<std::string> ignored_config_fields;
  Overwrite overwrite = Overwrite::refuse;
};

/// Writes student/ (a Hugging Face checkpoint), tokens.npy (i32 [samples, seqlen]), targets.safetensors (write_soft_targets),
/// manifest.json, and train.py, which trains from them with PyTorch. Returns the manifest.
nlohmann::json write_distillation_bundle(const BundleRequest& request, const RunContext& context);

/// What a bundle's manifest says.
struct BundleInfo {
  double temperature = 0;
  int64_t seqlen = 0;
};
/// Throws Error(input).
BundleInfo read_bundle_info(const std::filesystem::path& directory);

}  // namespace llmc
