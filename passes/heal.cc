#include "passes/heal.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <variant>

#include "core/error.h"
#include "core/json.h"
#include "passes/learned_blocks.h"
#include "passes/learned_floats.h"
#include "passes/learned_grid.h"
#include "passes/low_rank.h"
#include "passes/training.h"

namespace llmc {

using nlohmann::json;

namespace {

struct HealOptions {
  int64_t epochs = 1;
  int64_t batch = 4;           ///< calibration samples in a step
  double temperature = 1;
  double scale_rate = 0.003;   ///< all as shares of where a value started; they fall to 0 along a line
  double code_rate = 0;        ///< in steps of the grid; 0: codes stay
  int64_t code_rank = 0;       ///< of what codes move by; 0: each moves on its own
  double norm_rate = 0.002;    ///< of norms and biases
  double weight_rate = 0.001;  ///< of weights that pruning left
};

/// A tensor that is trained.
struct Learned {
  const PlacedTensor* placed = nullptr;
  Matrix start;  ///< what LearnedGrid borrows; of a bias, the weight that it goes with if that is not trained
  std::variant<std::monostate, LearnedGrid, LearnedBlocks, LearnedFloats> values;
  std::optional<LowRankMatrix> offsets;  ///< of a LearnedGrid's codes
};

/// A codebook has no scales.
bool is_trained_weight(const StoredTensor& tensor) {
  if (has_block_scales(tensor)) return true;
  const Scheme* scheme = find_scheme(tensor);
  return scheme ? scheme->centroids == 0 : tensor.pruned;
}

/// Every trained tensor of a model, by block, as the reader of its gradients.
class Healer final : public Learner {
 public:
  Healer(Model& model, TrainableModel& trainable, const HealOptions& options, int64_t steps, uint64_t seed) : trainable_(trainable), options_(options), steps_(steps), seed_(seed) {
    for (int64_t block = -1; block < model.config().layers; ++block) {
      BlockTensors values = read_block(model, block);
      trainable.set(block, values);
      for (const PlacedTensor& placed : model.tensors())
        if (placed.block == block) add(model, placed, std::move(values(placed.row->role, placed.part)));
    }
  }

  void begin_step(int64_t step) override { left_ = 1 - static_cast<float>(step) / static_cast<float>(steps_); }
  void end_step(int64_t /*step*/, const HeadLosses& losses) override { losses_.push_back(losses.kl); }

  /// The mean of each epoch of so many steps.
  std::vector<double> losses(int64_t in_epoch) const {
    std::vector<double> means(losses_.size() / static_cast<size_t>(in_epoch));
    for (size_t i = 0; i < losses_.size(); ++i) means[i / static_cast<size_t>(in_epoch)] += losses_[i] / static_cast<double>(in_epoch);
    return means;
  }

  BlockTensors prepare(int64_t block) override {
    BlockTensors gradients;
    for (const Learned& learned : by_block_[block]) {
      const StoredTensor& tensor = *learned.placed->tensor;
      gradients(learned.placed->row->role, learned.placed->part) = Matrix(tensor.rows(), tensor.cols());
    }
    return gradients;
  }

  void take(int64_t block, BlockTensors gradients) override {
    for (Learned& learned : by_block_[block]) {
      Matrix& gradient = gradients(learned.placed->row->role, learned.placed->part);
      if (auto* grid = std::get_if<LearnedGrid>(&learned.values)) {
        const auto code_rate = left_ * static_cast<float>(options_.code_rate);
        grid->update(gradient, {.rounding = learned.offsets ? 0 : code_rate, .scale = left_ * static_cast<float>(options_.scale_rate), .decay = {}});
        if (learned.offsets) {
          grid->make_offset_gradient(gradient);
          learned.offsets->update(gradient, code_rate);
          grid->set_offsets(learned.offsets->values());
        }
      }
      if (auto* blocks = std::get_if<LearnedBlocks>(&learned.values)) blocks->update(gradient, left_ * static_cast<float>(options_.scale_rate));
      if (auto* floats = std::get_if<LearnedFloats>(&learned.values)) floats->update(gradient, {.rate = floats->size() * left_ * static_cast<float>(is_vector(*learned.placed) ? options_.norm_rate : options_.weight_rate)});
    }
    set(block, std::move(gradients));  // which have the right shapes
  }

  /// How many values are trained, by what they are.
  json describe() const {
    int64_t scales = 0, codes = 0, vectors = 0, weights = 0;
    for (const auto& [block, list] : by_block_)
      for (const Learned& learned : list) {
        const StoredTensor& tensor = *learned.placed->tensor;
        if (const auto* grid = std::get_if<LearnedGrid>(&learned.values)) scales += grid->scale_count(), codes += learned.offsets ? learned.offsets->parameters() : options_.code_rate > 0 ? tensor.count() : 0;
        else if (const auto* blocks = std::get_if<LearnedBlocks>(&learned.values)) scales += blocks->scale_count();
        else (is_vector(*learned.placed) ? vectors : weights) += tensor.count();
      }
    return {{"trained", {{"scales", scales}, {"norms_and_biases", vectors}, {"pruned_weights", weights}, {"codes", codes}}}};
  }

  /// Puts what was learned into the model.
  void finish() {
    for (auto& [block, list] : by_block_)
      for (Learned& learned : list) {
        StoredTensor& tensor = *learned.placed->tensor;
        if (const auto* grid = std::get_if<LearnedGrid>(&learned.values)) tensor.form = grid->quantized();
        if (const auto* blocks = std::get_if<LearnedBlocks>(&learned.values)) blocks->store(tensor);
        if (const auto* floats = std::get_if<LearnedFloats>(&learned.values)) tensor.form = FloatData(Matrix(floats->values()));
      }
  }

 private:
  void add(const Model& model, const PlacedTensor& placed, Matrix values) {
    std::vector<Learned>& list = by_block_[placed.block];
    const StoredTensor& tensor = *placed.tensor;
    if (is_vector(placed)) {
      const StoredTensor* weight = placed.row->kind == TensorKind::norm ? nullptr : model.find(placed.row->role, placed.block);
      list.push_back({.placed = &placed, .start = weight && !is_trained_weight(*weight) ? read_matrix(*weight) : Matrix(), .values = {}, .offsets = {}});
      list.back().values.emplace<LearnedFloats>(tensor, LearnedFloats::Zeros::learned);
    } else if (is_trained_weight(tensor)) {
      if (options_.code_rate > 0 && !tensor.pruned)
        for (float& value : values.values())
          if (value == 0) value = std::numeric_limits<float>::min();  // LearnedGrid keeps zeros, which here are codes like others
      list.push_back({.placed = &placed, .start = std::move(values), .values = {}, .offsets = {}});
      if (has_block_scales(tensor)) list.back().values.emplace<LearnedBlocks>(tensor);
      else if (find_scheme(tensor)) list.back().values.emplace<LearnedGrid>(list.back().start.view(), read_codes(tensor));
      else list.back().values.emplace<LearnedFloats>(tensor, LearnedFloats::Zeros::kept);
      if (options_.code_rank > 0 && std::holds_alternative<LearnedGrid>(list.back().values)) list.back().offsets.emplace(tensor.rows(), tensor.cols(), options_.code_rank, Random(seed_, tensor.name));
    }
  }

  /// Hands the present values of a block's trained tensors on; `values` has them all, with any content.
  void set(int64_t block, BlockTensors values) {
    for (const Learned& learned : by_block_[block]) {
      Matrix& matrix = values(learned.placed->row->role, learned.placed->part);
      if (const auto* grid = std::get_if<LearnedGrid>(&learned.values)) grid->write_values(matrix);
      if (const auto* blocks = std::get_if<LearnedBlocks>(&learned.values)) blocks->write_values(matrix);
      if (const auto* floats = std::get_if<LearnedFloats>(&learned.values)) floats->write_values(matrix);
      if (is_vector(*learned.placed) && !learned.start.empty()) values(learned.placed->row->role) = learned.start;
    }
    trainable_.set(block, values);
  }

  TrainableModel& trainable_;
  HealOptions options_;
  int64_t steps_;
  uint64_t seed_;
  std::map<int64_t, std::vector<Learned>> by_block_;
  float left_ = 1;
  std::vector<double> losses_;
};

class Heal final : public Pass {
 public:
  Heal(FieldReader fields, const std::string& where) {
    for (const auto& [name, count] : {std::pair("epochs", &options_.epochs), std::pair("batch", &options_.batch)}) {
      *count = fields.find_int(name).value_or(*count);
      if (*count < 1 || *count > 1'000'000) throw Error(ErrorKind::usage, fmt::format("{}: {}: expected 1 to 1000000, found {}", where, name, *count));
    }
    for (const auto& [name, number] : {std::pair("temperature", &options_.temperature), std::pair("scale_rate", &options_.scale_rate), std::pair("code_rate", &options_.code_rate), std::pair("norm_rate", &options_.norm_rate), std::pair("weight_rate", &options_.weight_rate)}) {
      *number = fields.find_number(name).value_or(*number);
      if (!(*number >= 0 && *number <= 100)) throw Error(ErrorKind::usage, fmt::format("{}: {}: expected 0 to 100, found {}", where, name, *number));
    }
    if (options_.temperature < 0.01) throw Error(ErrorKind::usage, fmt::format("{}: temperature: expected 0.01 to 100, found {}", where, options_.temperature));
    options_.code_rank = fields.find_int("code_rank").value_or(0);
    if (options_.code_rank < 0 || options_.code_rank > 1'000'000) throw Error(ErrorKind::usage, fmt::format("{}: code_rank: expected 0 to 1000000, found {}", where, options_.code_rank));
    if (options_.code_rank > 0 && options_.code_rate == 0) throw Error(ErrorKind::usage, fmt::format("{}: code_rank is {} but code_rate is 0: codes stay as they are", where, options_.code_rank));
    fields.finish();
  }

  json options() const override {
    return {{"pass", "heal"}, {"epochs", options_.epochs}, {"batch", options_.batch}, {"temperature", options_.temperature}, {"scale_rate", options_.scale_rate}, {"code_rate", options_.code_rate}, {"code_rank", options_.code_rank}, {"norm_rate", options_.norm_rate}, {"weight_rate", options_.weight_rate}};
  }

  std::vector<Treatment> plan(const Model& model) const override {
    std::vector<Treatment> treatments;
    for (const PlacedTensor& placed : model.tensors())
      if (is_vector(placed)) treatments.push_back({.target = &placed, .description = "trained", .bits = 8.0 * static_cast<double>(get_info(placed.tensor->dtype).bytes)});
    return treatments;
  }
  bool needs_calibration() const override { return true; }

  json run(Model& model, const PassContext& context) override {
    const Sequences& samples = *context.calibration;
    TeacherModel original(context.load_original(), TeacherRuns::once, samples, context);
    if (original.vocabulary() != model.config().vocabulary) throw Error(ErrorKind::usage, fmt::format("heal: the model has a vocabulary of {}, the original one of {}; expected the same, as their logits are compared", model.config().vocabulary, original.vocabulary()));
    const auto in_epoch = static_cast<int64_t>((samples.size() + static_cast<size_t>(options_.batch) - 1) / static_cast<size_t>(options_.batch));
    const int64_t steps = options_.epochs * in_epoch;
    TrainableModel trainable(model.config(), context.sweep.forward.precision, context.sweep.forward.backend);
    Healer healer(model, trainable, options_, steps, context.seed);
    train(trainable, healer, original, samples, {.name = "heal", .order = "healing", .steps = steps, .batch = options_.batch, .loss = {.kl = 1, .temperature = options_.temperature}}, context);
    healer.finish();
    json result = healer.describe();
    result.update({{"steps", steps}, {"loss", healer.losses(in_epoch)}});
    return result;
  }

 private:
  HealOptions options_;
};

}  // namespace

std::unique_ptr<Pass> make_heal(const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<Heal>(std::move(fields), where);
}

}  // namespace llmc
