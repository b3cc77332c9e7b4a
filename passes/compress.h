// Owns the straight line: recipe → passes → artifact on disk → re-opened → judged → report → final name.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "calib/calibration_data.h"
#include "core/output.h"
#include "core/run_context.h"
#include "passes/pass.h"
#include "passes/recipe.h"
#include "verify/gates.h"
#include "verify/report.h"

namespace llmc {

/// Whether weights that are quantized already may be rounded again, from what they mean.
enum class Requantize { refuse, allow };

struct CompressRequest {
  std::string command;                                  ///< for provenance
  std::filesystem::path model;
  std::filesystem::path output;
  Recipe recipe;
  std::optional<std::filesystem::path> evaluation_data;  ///< none: the bundled text
  WindowOptions windows;
  ForwardOptions forward;                               ///< how the models are run to be judged
  std::vector<GateLimit> gates;
  std::set<std::string> ignored_config_fields;
  Overwrite overwrite = Overwrite::refuse;
  Requantize requantize = Requantize::refuse;
  std::optional<std::filesystem::path> resume;           ///< directory for the state of a run, to go on after a kill
  uint64_t max_memory = 0;                               ///< bytes beyond which calibration activations spill to disk; 0: none
};

/// Text to judge on, cut into windows that borrow it, and what is calibrated on.
struct RunText {
  TokenData data;
  Windows windows;
  std::optional<CalibrationData> calibration;
};
/// Loads the texts of a request for a model: evaluation data (a file, or the bundled text when there is none), and
/// calibration data if the recipe has a step that needs it. Throws Error(input).
RunText load_run_text(const Model& model, const CompressRequest& request);

/// The passes of a recipe, each checked against the model as it is before the first of them runs.
struct CheckedRecipe {
  std::vector<std::unique_ptr<Pass>> passes;
  std::vector<std::vector<Treatment>> treatments;  ///< by step: what it will do, to the tensors of the outline that it meets
  std::vector<Model> outlines;                     ///< of the model, after each step that changes shapes
};
CheckedRecipe check_recipe(const Recipe& recipe, const Model& model);

/// An output may replace neither the model that is read nor a directory above it. Throws Error(usage).
void refuse_own_output(const std::filesystem::path& model, const std::filesystem::path& output);

/// The tensor's values in that float type, rounded to nearest; inputs of its layer are no longer rounded. Throws Error(input) naming a
/// tensor with a value beyond the type's range.
void become_floats(StoredTensor& tensor, DType dtype);

/// The model that a run starts from: floats, its head untied if the recipe says so. Of a GGUF file or an artifact the values that its
/// codes mean, if the request does not round them again or allows it; else Error(input).
Model load_source(const CompressRequest& request, const RunContext& context);

/// Runs the whole line. The output directory appears complete, with its report, or not at all; a missed gate is in the
/// report and does not keep the artifact from being written.
Report compress(const CompressRequest& request, const RunContext& context);

}  // namespace llmc
