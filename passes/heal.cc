#include "passes/heal.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "model/block_tensors.h"
#include "passes/healed_block.h"
#include "passes/training.h"

namespace llmc {

using nlohmann::json;

namespace {

enum class HealScope { model, block };

struct HealOptions {
  HealScope scope = HealScope::model;
  int64_t epochs = 1;
  int64_t batch = 4;       ///< calibration samples in a step
  double temperature = 1;  ///< of the loss of the whole model
  Activations activations = Activations::kept;
  HealRates rates;
};

/// Every trained tensor of a model, by block, as the reader of its gradients.
class ModelHealer final : public Learner {
 public:
  ModelHealer(Model& model, TrainableModel& trainable, const HealRates& rates, int64_t steps, uint64_t seed) : trainable_(trainable), steps_(steps) {
    for (int64_t block = -1; block < model.config().layers; ++block) {
      BlockTensors values = read_block(model, block);
      trainable.set(block, values);
      blocks_.emplace(block, HealedBlock(model, block, std::move(values), rates, seed));
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

  BlockTensors prepare(int64_t block) override { return blocks_.at(block).make_gradients(); }

  void take(int64_t block, BlockTensors gradients) override {
    HealedBlock& healed = blocks_.at(block);
    healed.update(gradients, left_);
    healed.write_values(gradients);  // which have the right shapes
    trainable_.set(block, gradients);
  }

  HealedCounts finish() const {
    HealedCounts counts;
    for (const auto& [block, healed] : blocks_) {
      healed.count(counts);
      healed.store();
    }
    return counts;
  }

 private:
  TrainableModel& trainable_;
  int64_t steps_;
  std::map<int64_t, HealedBlock> blocks_;
  float left_ = 1;
  std::vector<double> losses_;
};

/// Block after block, on the inputs that the healed ones before it make, towards the original's outputs.
class BlockHealer final : public BlockVisitor {
 public:
  BlockHealer(Model& model, const HealOptions& options, int64_t steps, const PassContext& context) : model_(model), options_(options), steps_(steps), context_(context) {}

  bool needs_statistics(int64_t /*block*/, Tap /*tap*/) const override { return false; }
  void finish(int64_t /*block*/, Tap /*tap*/, const InputStatistics& /*statistics*/) override {}
  bool needs_block_outputs() const override { return true; }

  void finish_block(int64_t block, const ActivationStore& inputs, const ActivationStore& float_outputs) override {
    const BlockTensors values = read_block(model_, block);
    HealedBlock healed(model_, block, values, options_.rates, context_.seed);
    const BlockTraining training{.iterations = steps_, .batch = options_.batch, .seed = context_.seed, .stream = fmt::format("healing, block {}", block), .precision = context_.sweep.forward.precision, .backend = context_.sweep.forward.backend};
    const BlockErrors errors = train_block(model_.config().at_block(block), values, healed, make_block_samples(inputs, float_outputs), training, fmt::format("heal, block {}", block), context_.run);
    HealedCounts counts;
    healed.count(counts);
    if (errors.after < errors.before) healed.store();
    for (const PlacedTensor& placed : model_.tensors())
      if (placed.block == block) round_floats(*placed.tensor);
    blocks_.push_back({{"block", block}, {"error_before", errors.before}, {"error_after", std::min(errors.before, errors.after)}, {"trained", to_json(counts)}});
  }

  json notes() const override { return blocks_; }
  void restore_notes(const json& notes) override { blocks_ = notes; }

  json describe() const {
    json trained = json::object();
    for (const json& block : blocks_)
      for (const auto& [kind, count] : block.at("trained").items()) trained[kind] = trained.value(kind, int64_t{0}) + count.get<int64_t>();
    json blocks = json::array();
    for (const json& block : blocks_) blocks.push_back({{"block", block.at("block")}, {"error_before", block.at("error_before")}, {"error_after", block.at("error_after")}});
    return {{"trained", trained}, {"blocks", blocks}};
  }

 private:
  Model& model_;
  const HealOptions& options_;
  int64_t steps_;  ///< in each block
  const PassContext& context_;
  json blocks_ = json::array();
};

class Heal final : public Pass {
 public:
  Heal(FieldReader fields, const std::string& where) {
    const bool has_temperature = fields.find_number("temperature").has_value();
    for (const auto& [name, count] : {std::pair("epochs", &options_.epochs), std::pair("batch", &options_.batch)}) {
      *count = fields.find_int(name).value_or(*count);
      if (*count < 1 || *count > 1'000'000) throw Error(ErrorKind::usage, fmt::format("{}: {}: expected 1 to 1000000, found {}", where, name, *count));
    }
    for (const auto& [name, number] : {std::pair("temperature", &options_.temperature), std::pair("scale_rate", &options_.rates.scale), std::pair("code_rate", &options_.rates.code), std::pair("norm_rate", &options_.rates.norm), std::pair("weight_rate", &options_.rates.weight)}) {
      *number = fields.find_number(name).value_or(*number);
      if (!(*number >= 0 && *number <= 100)) throw Error(ErrorKind::usage, fmt::format("{}: {}: expected 0 to 100, found {}", where, name, *number));
    }
    if (options_.temperature < 0.01) throw Error(ErrorKind::usage, fmt::format("{}: temperature: expected 0.01 to 100, found {}", where, options_.temperature));
    options_.rates.code_rank = fields.find_int("code_rank").value_or(0);
    if (options_.rates.code_rank < 0 || options_.rates.code_rank > 1'000'000) throw Error(ErrorKind::usage, fmt::format("{}: code_rank: expected 0 to 1000000, found {}", where, options_.rates.code_rank));
    if (options_.rates.code_rank > 0 && options_.rates.code == 0) throw Error(ErrorKind::usage, fmt::format("{}: code_rank is {} but code_rate is 0: codes stay as they are", where, options_.rates.code_rank));
    if (const auto scope = fields.find_string("scope")) {
      if (*scope != "model" && *scope != "block") throw Error(ErrorKind::usage, fmt::format("{}: scope '{}' is not known; expected model or block", where, *scope));
      if (*scope == "block") options_.scope = HealScope::block;
    }
    if (fields.find_bool("activation_checkpointing").value_or(false)) options_.activations = Activations::recomputed;
    if (options_.scope == HealScope::block && options_.activations == Activations::recomputed) throw Error(ErrorKind::usage, fmt::format("{}: activation_checkpointing makes no sense with scope block, which keeps those of one block", where));
    if (options_.scope == HealScope::block && has_temperature) throw Error(ErrorKind::usage, fmt::format("{}: temperature makes no sense with scope block, whose loss is of hidden states", where));
    fields.finish();
  }

  json options() const override {
    json result = {{"pass", "heal"}, {"epochs", options_.epochs}, {"batch", options_.batch}, {"scale_rate", options_.rates.scale}, {"code_rate", options_.rates.code}, {"code_rank", options_.rates.code_rank}, {"norm_rate", options_.rates.norm}, {"weight_rate", options_.rates.weight}};
    if (options_.scope == HealScope::block) result["scope"] = "block";
    else result["temperature"] = options_.temperature;
    if (options_.activations == Activations::recomputed) result["activation_checkpointing"] = true;
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override {
    check_trainable(model, "heal");
    std::vector<Treatment> treatments;
    for (const PlacedTensor& placed : model.tensors())
      if (is_vector(placed) && (options_.scope == HealScope::model || placed.block >= 0)) treatments.push_back({.target = &placed, .description = "trained", .bits = 8.0 * static_cast<double>(get_info(placed.tensor->dtype).bytes)});
    return treatments;
  }
  bool needs_calibration() const override { return true; }

  json run(Model& model, const PassContext& context) override {
    const Sequences& samples = *context.calibration;
    const auto in_epoch = static_cast<int64_t>((samples.size() + static_cast<size_t>(options_.batch) - 1) / static_cast<size_t>(options_.batch));
    const int64_t steps = options_.epochs * in_epoch;
    json result = options_.scope == HealScope::block ? heal_blocks(model, steps, context) : heal_model(model, steps, in_epoch, context);
    result["steps"] = steps;
    return result;
  }

 private:
  json heal_model(Model& model, int64_t steps, int64_t in_epoch, const PassContext& context) const {
    const Sequences& samples = *context.calibration;
    TeacherModel original(context.load_original(), TeacherRuns::once, samples, context);
    if (original.vocabulary() != model.config().vocabulary) throw Error(ErrorKind::usage, fmt::format("heal: the model has a vocabulary of {}, the original one of {}; expected the same, as their logits are compared", model.config().vocabulary, original.vocabulary()));
    TrainableModel trainable(model.config(), context.sweep.forward.precision, context.sweep.forward.backend, options_.activations);
    ModelHealer healer(model, trainable, options_.rates, steps, context.seed);
    train(trainable, healer, original, samples, {.name = "heal", .order = "healing", .steps = steps, .batch = options_.batch, .loss = {.kl = 1, .temperature = options_.temperature}}, context);
    return {{"trained", to_json(healer.finish())}, {"loss", healer.losses(in_epoch)}};
  }

  json heal_blocks(Model& model, int64_t steps, const PassContext& context) const {
    const Model original = context.load_original();
    SweepOptions sweeping = context.sweep;
    sweeping.original = &original;
    BlockHealer healer(model, options_, steps, context);
    const auto errors = sweep(model, *context.calibration, sweeping, healer, context.run);
    json result = healer.describe();
    for (size_t block = 0; block < errors.size(); ++block) result["blocks"][block]["hidden_error"] = errors[block].relative_error;
    return result;
  }

  HealOptions options_;
};

}  // namespace

std::unique_ptr<Pass> make_heal(const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<Heal>(std::move(fields), where);
}

}  // namespace llmc
