#include "passes/loss_gradients.h"

#include <fmt/format.h>

#include <cmath>

#include "core/error.h"
#include "model/trainable_model.h"
#include "passes/teacher.h"

namespace llmc {
namespace {

/// Hands on the gradients of some tensors.
class ChosenGradients final : public GradientReader {
 public:
  ChosenGradients(const std::vector<const PlacedTensor*>& tensors, const GradientBody& body) : body_(body) {
    for (const PlacedTensor* placed : tensors) by_block_[placed->block].push_back(placed);
  }

  BlockTensors prepare(int64_t block) override {
    BlockTensors gradients;
    for (const PlacedTensor* placed : by_block_[block]) gradients(placed->row->role, placed->part) = Matrix(placed->tensor->rows(), placed->tensor->cols());
    return gradients;
  }
  void take(int64_t block, BlockTensors gradients) override {
    for (const PlacedTensor* placed : by_block_[block]) body_(*placed, gradients.get(placed->row->role, placed->part));
  }

 private:
  std::map<int64_t, std::vector<const PlacedTensor*>> by_block_;
  const GradientBody& body_;
};

}  // namespace

void visit_loss_gradients(const Model& model, const std::vector<const PlacedTensor*>& tensors, const PassContext& context, const GradientBody& body) {
  const Sequences& samples = *context.calibration;
  TrainableModel trainable(model.config(), context.sweep.forward.precision, context.sweep.forward.backend);
  for (int64_t block = -1; block < model.config().layers; ++block) trainable.set(block, read_block(model, block));
  ChosenGradients reader(tensors, body);
  Stage stage(context.run, "gradients of the loss", static_cast<int64_t>(samples.size()));
  for (size_t i = 0; i < samples.size(); ++i) {
    const Batch batch(samples, {i});
    trainable.run(batch.rows, batch.tokens);
    const HeadLosses losses = trainable.backpropagate({.kl = 0, .cross_entropy = 1}, {}, batch.labels, reader);
    if (!std::isfinite(losses.cross_entropy)) throw Error(ErrorKind::input, fmt::format("calibration sample {}: the loss is {}; expected a number", i, losses.cross_entropy));
    stage.advance();
  }
}

std::map<const PlacedTensor*, Matrix> measure_fisher(const Model& model, const std::vector<const PlacedTensor*>& tensors, const PassContext& context) {
  std::map<const PlacedTensor*, Matrix> squares;
  for (const PlacedTensor* placed : tensors) squares[placed] = Matrix(placed->tensor->rows(), placed->tensor->cols());
  const float share = 1 / static_cast<float>(context.calibration->size());
  visit_loss_gradients(model, tensors, context, [&](const PlacedTensor& placed, const Matrix& gradient) {
    const auto from = gradient.values();
    const auto to = squares.at(&placed).values();
    for (size_t i = 0; i < to.size(); ++i) to[i] += share * from[i] * from[i];
  });
  return squares;
}

}  // namespace llmc
