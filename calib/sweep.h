// Owns the calibration sweep: block by block, tap by tap, the activations of all calibration sequences go through the model
// while a visitor changes the weights behind them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "calib/activation_store.h"
#include "calib/input_statistics.h"
#include "calib/sweep_state.h"
#include "core/run_context.h"
#include "model/forward.h"
#include "model/model.h"

namespace llmc {

/// Calibration tokens: sequences in the order in which they are used.
using Sequences = std::vector<std::vector<int32_t>>;

struct SweepOptions {
  ForwardOptions forward;
  DType activations = DType::f32;                        ///< f32 or bf16: how activations are kept between layers
  std::filesystem::path spill_directory;                 ///< where activations go that memory has no room for
  uint64_t max_memory = 0;                               ///< bytes the process should stay under; 0: no limit
  std::filesystem::path state_directory;                 ///< where finished blocks go (SweepState); empty: they stay in memory
  Persistence persistence = Persistence::scratch;
  nlohmann::json signature;                              ///< of the run: what its result depends on
  const Model* original = nullptr;                       ///< what the float model is, with as many blocks of the same width; nullptr: the model as it comes
};

/// What works on the blocks while they go by. A block's weights in the model are floats until the visitor changes them.
class BlockVisitor {
 public:
  virtual ~BlockVisitor() = default;

  /// Whether change_embedding() is to change the hidden states [T, hidden] that the changed model starts from.
  virtual bool changes_embedding() const { return false; }
  virtual void change_embedding(MatrixView /*hidden*/) const {}
  /// Whether the statistics of every tap that is in one part are wanted before any weight of a block is changed.
  virtual bool needs_preparation() const { return false; }
  /// May rescale the block's float weights so that its function stays the same.
  virtual void prepare(int64_t /*block*/, const std::map<Tap, InputStatistics>& /*statistics*/) {}

  /// Whether second moments of this tap are wanted.
  virtual bool needs_statistics(int64_t block, Tap tap) const = 0;
  /// Whether InputStatistics::drift_moment is wanted too.
  virtual bool needs_drift_moment() const { return false; }
  /// Whether InputStatistics::residual_moment is wanted too, at the taps whose layer adds to the residual stream.
  virtual bool needs_residual_moment() const { return false; }
  /// Whether observe() is to see this tap.
  virtual bool needs_observation(int64_t /*block*/, Tap /*tap*/) const { return false; }
  /// Whether inputs at the taps are to be kept as they are even where products round them to bf16.
  virtual bool needs_exact_inputs() const { return false; }
  /// Sees every sequence's input x [T, in] at a tap, in order, before finish().
  virtual void observe(int64_t /*block*/, Tap /*tap*/, ConstMatrixView /*x*/) {}
  /// Changes the linear weights that read the tap, or the part of it that `statistics` are of: called once for each part.
  /// `statistics` is empty (no tokens) unless they were asked for.
  virtual void finish(int64_t block, Tap tap, const InputStatistics& statistics) = 0;

  /// What must survive a kill beside the weights, and how it comes back.
  virtual nlohmann::json notes() const { return nullptr; }
  virtual void restore_notes(const nlohmann::json& /*notes*/) {}

  /// Whether finish_block() wants to see whole blocks: inputs of the changed model and outputs of the float model.
  virtual bool needs_block_outputs() const { return false; }
  /// Called when the taps of a block are done, before the changed block's outputs are computed for good.
  virtual void finish_block(int64_t /*block*/, const ActivationStore& /*inputs*/, const ActivationStore& /*float_outputs*/) {}
};

/// How far the changed model's hidden states are from the float model's after a block: over all calibration tokens, or over the
/// first 4 sequences when the visitor needs the float model's activations for nothing else.
struct BlockError {
  double relative_error = 0;  ///< √(Σ(h − h̃)² / Σ h̃²)
};

/// Runs every block of `model` over the sequences: observe, finish, propagate with the changed block. The float model's
/// chain runs beside it (in the same precision), so that errors can be compared and compensated. Returns the error after
/// each block.
/// Memory: one block's weights, one tap's second moments, and the activations, which spill to files beyond max_memory. Inputs
/// at taps are kept in bf16 where bf16 products read them, unless the visitor needs them exact or routers read them: the products are the same, means
/// and drift moments are those of rounded values.
/// With a resumable state directory, blocks that an earlier process finished are taken from there.
/// The result depends on neither the number of threads nor on what is spilled.
std::vector<BlockError> sweep(Model& model, const Sequences& sequences, const SweepOptions& options, BlockVisitor& visitor, const RunContext& context);

}  // namespace llmc
