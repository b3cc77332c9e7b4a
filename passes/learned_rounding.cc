#include "passes/learned_rounding.h"

#include <algorithm>

#include "passes/learned_grid.h"

namespace llmc {
namespace {

class Grids final : public BlockLearner {
 public:
  Grids(const BlockTensors& values, const std::map<Role, QuantizedMatrix>& start, const LearnedRoundingOptions& options) : values_(values), options_(options) {
    for (const auto& [role, matrix] : start) grids_.emplace(role, LearnedGrid(values.get(role).view(), matrix));
  }

  BlockTensors make_gradients() const override {
    BlockTensors gradients;
    for (const auto& [role, grid] : grids_) gradients(role) = Matrix(values_.get(role).rows(), values_.get(role).cols());
    return gradients;
  }

  void write_values(BlockTensors& values) const override {
    for (const auto& [role, grid] : grids_) {
      grid.write_values(values(role));
      if (const Matrix* bias = values_.find(role, Part::bias)) values(role, Part::bias) = *bias;
    }
  }

  void update(BlockTensors& gradients, float left) override {
    for (auto& [role, grid] : grids_) grid.update(gradients.get(role), {.rounding = options_.rounding_rate * left, .scale = options_.scale_rate * left, .decay = {}});
  }

  void store(std::map<Role, QuantizedMatrix>& weights) const {
    for (const auto& [role, grid] : grids_) weights.at(role) = grid.quantized();
  }

 private:
  const BlockTensors& values_;
  const LearnedRoundingOptions& options_;
  std::map<Role, LearnedGrid> grids_;
};

}  // namespace

LearnedRounding learn_rounding(const ModelConfig& config, const BlockTensors& values, std::map<Role, QuantizedMatrix> start, const BlockSamples& samples, const LearnedRoundingOptions& options, const std::string& name, const RunContext& context) {
  Grids grids(values, start, options);
  const BlockErrors errors = train_block(config, values, grids, samples, {.iterations = options.iterations, .batch = options.batch, .seed = options.seed, .stream = "learned rounding " + name, .precision = options.precision, .backend = options.backend}, name, context);
  LearnedRounding result{.weights = std::move(start), .error_before = errors.before, .error_after = std::min(errors.before, errors.after)};
  if (errors.after < errors.before) grids.store(result.weights);
  return result;
}

}  // namespace llmc
