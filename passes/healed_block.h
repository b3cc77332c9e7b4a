// Owns what healing trains of one block: scales, codes, norms, biases and what pruning left, and how gradients move them.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <variant>
#include <vector>

#include "model/block_tensors.h"
#include "model/model.h"
#include "passes/block_training.h"
#include "passes/learned_blocks.h"
#include "passes/learned_floats.h"
#include "passes/learned_grid.h"
#include "passes/low_rank.h"

namespace llmc {

/// Sizes of steps, as shares of where a value started. They fall to 0 along a line.
struct HealRates {
  double scale = 0.003;
  double code = 0;        ///< in steps of the grid; 0: codes stay
  int64_t code_rank = 0;  ///< of what codes move by; 0: each moves on its own
  double norm = 0.002;    ///< of norms and biases
  double weight = 0.001;  ///< of weights that pruning left
};

/// How many values are trained.
struct HealedCounts {
  int64_t scales = 0;
  int64_t codes = 0;
  int64_t vectors = 0;  ///< values of norms and biases
  int64_t weights = 0;  ///< of what pruning left, zeros counted
};
nlohmann::json to_json(const HealedCounts& counts);

class HealedBlock final : public BlockLearner {
 public:
  /// Starts at the tensors of a block of the model (−1: those outside the blocks), which is borrowed, in whatever form they are;
  /// `values` are all of them as floats.
  HealedBlock(const Model& model, int64_t block, BlockTensors values, const HealRates& rates, uint64_t seed);

  BlockTensors make_gradients() const override;
  void write_values(BlockTensors& values) const override;
  void update(BlockTensors& gradients, float left) override;

  /// Puts what was learned into the model.
  void store() const;
  void count(HealedCounts& counts) const;

 private:
  /// A tensor that is trained.
  struct Learned {
    const PlacedTensor* placed = nullptr;
    Matrix start;  ///< what LearnedGrid borrows; of a bias, the weight that it goes with if that is not trained
    std::variant<std::monostate, LearnedGrid, LearnedBlocks, LearnedFloats> values;
    std::optional<LowRankMatrix> offsets;  ///< of a LearnedGrid's codes
  };
  void add(const Model& model, const PlacedTensor& placed, Matrix values, uint64_t seed);

  HealRates rates_;
  std::vector<Learned> learned_;
};

}  // namespace llmc
