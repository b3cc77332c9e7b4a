// Owns what all methods that quantize during the calibration sweep have in common: which weight is due at which tap, the
// error before and after, and the count of what was done.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "calib/sweep.h"
#include "model/block_tensors.h"
#include "passes/pass.h"
#include "passes/quantize_targets.h"

namespace llmc {

/// A method: what becomes of the weights that read one tap. Called from one thread; parallel inside.
class WeightRounder {
 public:
  virtual ~WeightRounder() = default;
  virtual bool needs_drift_moment() const { return false; }
  /// Before the weights of a tap: what they share.
  virtual void begin_tap(const InputStatistics& statistics, const std::string& where) = 0;
  /// `weights` [out, in] on the grid of the target's scheme.
  virtual QuantizedMatrix round(ConstMatrixView weights, const QuantizeTarget& target, const InputStatistics& statistics) = 0;
  /// What the report should say of the tap, beside errors.
  virtual nlohmann::json describe_tap() const { return nlohmann::json::object(); }

  /// Whether round() makes zeros that are meant to be stored as such.
  virtual bool prunes() const { return false; }

  /// Whether the weights of a block are worked on together once all are rounded.
  virtual bool tunes_blocks() const { return false; }
  /// `values`: all tensors of the block as floats; `rounded`: what round() made of the weights that are quantized, in and out;
  /// `inputs` of the changed model and `outputs` of the float model. Returns what the report should say.
  virtual nlohmann::json tune_block(const ModelConfig&, int64_t /*block*/, const BlockTensors& /*values*/, std::map<Role, QuantizedMatrix>& /*rounded*/, const ActivationStore& /*inputs*/, const ActivationStore& /*outputs*/) { return nullptr; }
};

/// Runs the sweep with a method for the weights inside blocks, and finds the grids of static inputs; embedding and head are
/// rounded to nearest. Returns what the
/// report should say: per weight the relative output error E‖(W − Ŵ)x‖² / E‖Wx‖² of round-to-nearest and of the method on
/// the same inputs, per block the error of the hidden states.
nlohmann::json quantize_layerwise(Model& model, const QuantizeTargets& targets, WeightRounder& rounder, const PassContext& context);

}  // namespace llmc
