#include "passes/loss_gradients.h"

#include <cmath>

#include "model/trainable_model.h"
#include "passes/structures.h"
#include "passes/teacher.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;

namespace {

/// Takes no gradients.
class NoGradients final : public GradientReader {
 public:
  BlockTensors prepare(int64_t) override { return {}; }
  void take(int64_t, BlockTensors) override {}
};

/// The cross-entropy of one sample.
double loss_of(TrainableModel& trainable, const Sequences& samples, size_t sample) {
  const Batch batch(samples, {sample});
  trainable.run(batch.rows, batch.tokens);
  NoGradients none;
  return trainable.backpropagate({.kl = 0, .cross_entropy = 1}, {}, batch.labels, none).cross_entropy;
}

}  // namespace

TEST_CASE("Gradients of the loss say what a structure's growth does to it, and their squares are the Fisher information") {
  const Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  const Sequences samples = {{1, 5, 9, 2, 7, 3}, {4, 4, 8, 1}};
  const RunContext context = test::context();
  const PassContext pass{.run = context, .seed = 1, .calibration = &samples, .sweep = {.forward = {.precision = Precision::f32}}, .state_directory = {}, .load_original = {}};
  std::vector<const PlacedTensor*> readers;
  for (const PlacedTensor& placed : model.tensors())
    if (placed.block == 1 && (placed.row->role == Role::ffn_down || placed.row->role == Role::attention_output) && placed.part == Part::weight) readers.push_back(&placed);
  REQUIRE(readers.size() == 2);

  std::map<const PlacedTensor*, std::vector<Matrix>> gradients;
  visit_loss_gradients(model, readers, pass, [&](const PlacedTensor& placed, const Matrix& gradient) { gradients[&placed].push_back(gradient); });
  TrainableModel trainable(model.config(), Precision::f32, default_backend());
  for (int64_t block = -1; block < model.config().layers; ++block) trainable.set(block, read_block(model, block));
  for (const PlacedTensor* placed : readers) {
    REQUIRE(gradients[placed].size() == samples.size());
    const Matrix weights = read_matrix(*placed->tensor);
    const int64_t width = placed->row->role == Role::ffn_down ? 1 : 4;
    for (size_t sample = 0; sample < samples.size(); ++sample) {
      const std::vector<double> slopes = slope_of_structures(weights.view(), gradients[placed][sample].view(), width);
      const size_t s = 2;
      double loss[2];
      for (const int side : {0, 1}) {
        Matrix changed = weights;
        for (int64_t r = 0; r < changed.rows(); ++r)
          for (int64_t c = s * width; c < static_cast<int64_t>(s + 1) * width; ++c) changed.row(r)[c] *= side == 0 ? 0.9f : 1.1f;
        BlockTensors values;
        values(placed->row->role) = std::move(changed);
        trainable.set(placed->block, values);
        loss[side] = loss_of(trainable, samples, sample);
      }
      BlockTensors values;
      values(placed->row->role) = weights;
      trainable.set(placed->block, values);
      CHECK(slopes[s] == Approx((loss[1] - loss[0]) / 0.2).epsilon(0.02).margin(2e-5));  // losses in f32
    }
  }

  const auto fisher = measure_fisher(model, readers, pass);
  for (const PlacedTensor* placed : readers)
    for (size_t i = 0; i < fisher.at(placed).values().size(); i += 17) {
      const float a = gradients[placed][0].values()[i], b = gradients[placed][1].values()[i];
      CHECK(fisher.at(placed).values()[i] == Approx((a * a + b * b) / 2).epsilon(1e-5));
    }
}
