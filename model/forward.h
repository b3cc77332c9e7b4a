// Owns the fast forward pass: decoder blocks one at a time, so that one block's weights are in memory, many sequences through it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "model/linear.h"
#include "model/model.h"
#include "model/tap.h"

namespace llmc {

class KeyValueCache;

struct ForwardOptions {
  Precision precision = Precision::f32;
  MatmulBackend backend = default_backend();
  Zeros zeros = Zeros::skipped;
  std::optional<int> kv_cache_bits = std::nullopt;  ///< 8 or 4: keys and values as a cache of so many bits would give them back; none: as they are
};

/// The norm in front of a block or of the head, ready to run.
class BlockEntry;
/// The linear layers that read one tap, and what follows them up to the next tap, ready to run.
class StageWeights;
/// The weights of one decoder block, ready to run.
class BlockWeights;
/// Final norm and output head, ready to run.
class HeadWeights;

/// Runs a model. Const members may be called from several threads at once; every result is the same, bit for bit, for any
/// number of threads and whatever else runs beside it, and a token's result depends on nothing after the token (but with
/// rotary positions that change with a sequence's length, on that).
/// Everything is f32 but the products of Linear. Memory beside the weights: some 4 matrices [T, hidden] and 2 [T, ffn] for
/// each sequence that is in run_block, and [64, T] for each thread.
class Forward {
 public:
  /// Borrows the model. Reads the embedding (and position) matrices.
  Forward(const Model& model, const ForwardOptions& options);
  ~Forward();

  /// hidden [T, hidden] from T token ids; positions start at 0. Throws Error(input) for an id outside the vocabulary or
  /// more positions than a learned position table holds.
  void embed(std::span<const int32_t> tokens, MatrixView hidden) const;
  std::shared_ptr<const BlockWeights> load_block(int64_t block) const;
  /// One causal decoder block over one sequence, in place: hidden [T, hidden]. An empty cache, of the block's own, is given the sequence's keys and values.
  void run_block(const BlockWeights& block, MatrixView hidden, KeyValueCache* cache = nullptr) const;

  /// What the block's attention compares, of a sequence whose states in front of it are `hidden` [T, hidden]: queries [T, query_width] and keys
  /// [T, kv_width], with positions in them. They are of the floats, whatever kv_cache_bits says.
  void read_attention(const BlockWeights& block, ConstMatrixView hidden, MatrixView q, MatrixView k) const;

  // One more position of several sequences at once, for generation. Differs from the above in the last bits.
  /// hidden [sequences, hidden] of one token each, all at `position`. Throws Error(input) as embed does.
  void embed_next(std::span<const int32_t> tokens, int64_t position, MatrixView hidden) const;
  /// One decoder block over that position, in place; `cache` is the block's own, and grows. Keys and values are not rounded,
  /// whatever kv_cache_bits says.
  void run_block_next(const BlockWeights& block, MatrixView hidden, KeyValueCache& cache) const;

  // The same block tap by tap, for calibration: enter, then the stage of each tap in order. `hidden` [T, hidden] is changed
  // by the stages of attention_context and ffn_activation, which add to it.
  std::shared_ptr<const BlockEntry> load_entry(int64_t block) const;
  std::shared_ptr<const BlockEntry> load_head_entry() const;
  /// input [T, hidden] of the first tap, or of the head.
  void enter_block(const BlockEntry& entry, ConstMatrixView hidden, MatrixView input) const;
  std::shared_ptr<const StageWeights> load_stage(int64_t block, Tap tap) const;
  /// From the input at a tap to that of the next one; next_input is not used (and may be empty) at the last tap.
  void run_stage(const StageWeights& stage, ConstMatrixView input, MatrixView hidden, MatrixView next_input) const;

  /// `other`, another model's head in the same precision, lends its output matrix where that holds the same floats.
  std::shared_ptr<const HeadWeights> load_head(const HeadWeights* other = nullptr) const;
  /// logits [T, vocabulary] of any rows of the last block's hidden states.
  void run_head(const HeadWeights& head, ConstMatrixView hidden, MatrixView logits) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The whole pass over one sequence: logits [T, vocabulary]. For short inputs and tests.
Matrix compute_logits(const Model& model, std::span<const int32_t> tokens, const ForwardOptions& options);

}  // namespace llmc
