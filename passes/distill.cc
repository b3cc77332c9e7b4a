#include "passes/distill.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "core/json.h"
#include "model/block_tensors.h"
#include "passes/soft_targets.h"
#include "passes/weight_learner.h"

namespace llmc {

using nlohmann::json;
namespace fs = std::filesystem;

namespace {

struct DistillOptions {
  std::optional<int64_t> steps;
  std::optional<double> max_minutes;
  int64_t batch = 8;
  int64_t warmup = 10;
  LossWeights loss = {.kl = 1, .temperature = 2, .cross_entropy = 0};
  WeightLearning learning;
  TeacherRuns teacher = TeacherRuns::with_each_batch;
  Activations activations = Activations::kept;
  std::string targets;  ///< a file of write_soft_targets(), instead of the original
};

/// Takes gradients and leaves the weights as they are, so that a step can be timed.
class IdleLearner final : public Learner {
 public:
  explicit IdleLearner(const Model& model) : model_(model) {}
  void begin_step(int64_t /*step*/) override { times_.push_back(std::chrono::steady_clock::now()); }
  void end_step(int64_t /*step*/, const HeadLosses& /*losses*/) override { times_.push_back(std::chrono::steady_clock::now()); }
  BlockTensors prepare(int64_t block) override {
    BlockTensors gradients;
    for (const PlacedTensor& placed : model_.tensors())
      if (placed.block == block) gradients(placed.row->role, placed.part) = Matrix(placed.tensor->rows(), placed.tensor->cols());
    return gradients;
  }
  void take(int64_t /*block*/, BlockTensors /*gradients*/) override {}

  /// The first step warms up.
  double seconds_per_step() const { return std::chrono::duration<double>(times_.back() - times_[2]).count() / static_cast<double>(times_.size() / 2 - 1); }

 private:
  const Model& model_;
  std::vector<std::chrono::steady_clock::time_point> times_;
};

/// The losses of the steps as a curve of at most so many points, each the mean of as many steps, by the number of its last one.
json describe_curve(const std::vector<HeadLosses>& losses, const LossWeights& weights) {
  constexpr size_t points = 100;
  json curve = {{"step", json::array()}, {"loss", json::array()}};
  for (const LossTerm& term : loss_terms)
    if (weights.*term.weight != 0) curve[term.name] = json::array();
  const size_t span = (losses.size() + points - 1) / points;
  for (size_t first = 0; first < losses.size(); first += span) {
    const size_t end = std::min(losses.size(), first + span);
    HeadLosses mean;
    for (size_t i = first; i < end; ++i)
      for (const LossTerm& term : loss_terms) mean.*term.loss += losses[i].*term.loss / static_cast<double>(end - first);
    curve["step"].push_back(end);
    curve["loss"].push_back(mean.total(weights));
    for (const LossTerm& term : loss_terms)
      if (weights.*term.weight != 0) curve[term.name].push_back(mean.*term.loss);
  }
  return curve;
}

class Distill final : public Pass {
 public:
  Distill(FieldReader fields, const std::string& where) {
    const auto read_count = [&](const char* name, int64_t least) {
      const auto count = fields.find_int(name);
      if (count && (*count < least || *count > 1'000'000'000)) throw Error(ErrorKind::usage, fmt::format("{}: {}: expected {} to 1000000000, found {}", where, name, least, *count));
      return count;
    };
    const auto read_number = [&](const char* name, double& number, double least, double most) {
      number = fields.find_number(name).value_or(number);
      if (!(number >= least && number <= most)) throw Error(ErrorKind::usage, fmt::format("{}: {}: expected {} to {}, found {}", where, name, least, most, number));
    };
    WeightLearning& learning = options_.learning;
    options_.steps = read_count("steps", 1);
    if (fields.find("max_minutes")) read_number("max_minutes", options_.max_minutes.emplace(0), 0.001, 100'000);
    if (options_.steps.has_value() == options_.max_minutes.has_value()) throw Error(ErrorKind::usage, fmt::format("{}: expected either steps or max_minutes, found {}", where, options_.steps ? "both" : "neither"));
    options_.batch = read_count("batch", 1).value_or(options_.batch);
    options_.warmup = read_count("warmup", 0).value_or(options_.warmup);
    learning.accumulate = read_count("accumulate", 1).value_or(learning.accumulate);
    read_number("temperature", options_.loss.temperature, 0.01, 100);
    read_number("kl_weight", options_.loss.kl, 0, 1000);
    read_number("ce_weight", options_.loss.cross_entropy, 0, 1000);
    read_number("hidden_weight", options_.loss.hidden, 0, 1000);
    read_number("attention_weight", options_.loss.attention, 0, 1000);
    if (std::ranges::all_of(loss_terms, [&](const LossTerm& term) { return options_.loss.*term.weight == 0; })) throw Error(ErrorKind::usage, fmt::format("{}: kl_weight and ce_weight are both 0; there is nothing to learn", where));
    read_number("rate", learning.rate, 0, 10);
    read_number("weight_decay", learning.weight_decay, 0, 10);
    read_number("clip", learning.clip, 0, 1e9);
    if (const auto text = fields.find_string("schedule")) learning.schedule = parse_schedule(*text, where + ": schedule");
    if (const auto text = fields.find_string("optimizer")) learning.optimizer = parse_optimizer(*text, where + ": optimizer");
    if (fields.find_bool("cache_teacher").value_or(false)) options_.teacher = TeacherRuns::once;
    if (fields.find_bool("activation_checkpointing").value_or(false)) options_.activations = Activations::recomputed;
    options_.targets = fields.find_string("targets").value_or("");
    if (!options_.targets.empty() && (options_.loss.kl == 0 || options_.teacher == TeacherRuns::once)) throw Error(ErrorKind::usage, fmt::format("{}: targets make no sense with {}", where, options_.loss.kl == 0 ? "a kl_weight of 0" : "cache_teacher: the teacher does not run"));
    for (const auto& [name, loss] : {std::pair("hidden_weight", options_.loss.hidden), {"attention_weight", options_.loss.attention}})
      if (loss != 0 && (!options_.targets.empty() || options_.teacher == TeacherRuns::once)) throw Error(ErrorKind::usage, fmt::format("{}: {} makes no sense with {}", where, name, options_.targets.empty() ? "cache_teacher, which keeps the last hidden states alone" : "targets, which say what the teacher's head does alone"));
    fields.finish();
  }

  json options() const override {
    const WeightLearning& learning = options_.learning;
    json result = {{"pass", "distill"}, {"batch", options_.batch}, {"accumulate", learning.accumulate}, {"warmup", options_.warmup}, {"temperature", options_.loss.temperature}, {"kl_weight", options_.loss.kl}, {"ce_weight", options_.loss.cross_entropy}, {"rate", learning.rate}, {"weight_decay", learning.weight_decay}, {"clip", learning.clip}, {"schedule", to_string(learning.schedule)}, {"optimizer", to_string(learning.optimizer)}, {"cache_teacher", options_.teacher == TeacherRuns::once}};
    if (options_.loss.hidden != 0) result["hidden_weight"] = options_.loss.hidden;
    if (options_.loss.attention != 0) result["attention_weight"] = options_.loss.attention;
    if (options_.activations == Activations::recomputed) result["activation_checkpointing"] = true;
    if (!options_.targets.empty()) result["targets"] = options_.targets;
    if (options_.steps) result["steps"] = *options_.steps;
    else result["max_minutes"] = *options_.max_minutes;
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override {
    check_trainable(model, "distill");
    std::vector<Treatment> treatments;
    for (const PlacedTensor& placed : model.tensors()) treatments.push_back({.target = &placed, .description = "trained", .bits = 8.0 * static_cast<double>(get_info(placed.tensor->dtype).bytes)});
    return treatments;
  }
  bool needs_calibration() const override { return true; }

  json run(Model& model, const PassContext& context) override {
    const Sequences& samples = *context.calibration;
    std::optional<HiddenMatch> match;
    const std::unique_ptr<Teacher> teaches = make_teacher(model, samples, context, match);
    Teacher& teacher = *teaches;
    if (teacher.vocabulary() != model.config().vocabulary) throw Error(ErrorKind::usage, fmt::format("distill: the student has a vocabulary of {}, the teacher one of {}; expected the same, as their logits are compared", model.config().vocabulary, teacher.vocabulary()));
    TrainableModel trainable(model.config(), context.sweep.forward.precision, context.sweep.forward.backend, options_.activations);
    TrainingPlan plan{.name = "distill", .order = "distillation", .batch = options_.batch, .accumulate = options_.learning.accumulate, .loss = options_.loss, .hidden = match ? &*match : nullptr};

    WeightLearner learner(model, trainable, options_.learning);
    if (match)
      for (HiddenMatch::Projection& projection : match->projections()) learner.add_companion(projection.tensor->name, projection.values, projection.gradient);
    learner.set_signature(context.sweep.signature.dump());
    if (const fs::path state = context.state_directory / "training.safetensors"; fs::exists(state)) plan.first_step = learner.restore(state), options_.steps = learner.steps();
    if (!options_.steps) options_.steps = fit_steps(model, trainable, teacher, samples, plan, context);
    plan.steps = *options_.steps;
    learner.set_schedule(std::min(options_.warmup, plan.steps), plan.steps);
    plan.after_step = [&, saved = std::chrono::steady_clock::now()](int64_t done) mutable {
      const bool stops = context.run.stop.stop_requested();
      constexpr auto interval = std::chrono::minutes(5);
      const bool is_due = context.sweep.persistence == Persistence::resumable && std::chrono::steady_clock::now() - saved > interval;
      if (!stops && !is_due) return;
      learner.save(context.state_directory / "training.safetensors");
      saved = std::chrono::steady_clock::now();
      if (stops) throw Error(ErrorKind::interrupted, fmt::format("interrupted after {} of {} training steps; the same command with --resume {} goes on from there", done, plan.steps, context.state_directory.parent_path().string()));
    };
    train(trainable, learner, teacher, samples, plan, context);
    learner.finish();
    int64_t tokens = 0;
    for (const auto& sample : samples) tokens += static_cast<int64_t>(sample.size());
    const auto in_step = std::min(static_cast<int64_t>(samples.size()), options_.batch) * options_.learning.accumulate;
    return {{"steps", plan.steps}, {"parameters", model.parameters()}, {"epochs", static_cast<double>(plan.steps * in_step) / static_cast<double>(samples.size())}, {"tokens", tokens * plan.steps * in_step / static_cast<int64_t>(samples.size())}, {"training", describe_curve(learner.losses(), options_.loss)}};
  }

 private:
  /// And what compares hidden states, if they count.
  std::unique_ptr<Teacher> make_teacher(const Model& student, const Sequences& samples, const PassContext& context, std::optional<HiddenMatch>& match) const {
    if (!options_.targets.empty()) return std::make_unique<KeptTargets>(options_.targets, samples, options_.loss.temperature);
    auto teacher = std::make_unique<TeacherModel>(context.load_original(), options_.loss.kl == 0 ? TeacherRuns::with_each_batch : options_.teacher, samples, context);
    std::vector<int64_t> origins;
    for (int64_t block = 0; block < student.config().layers; ++block) origins.push_back(source_block(student.origin(), block));
    if (options_.loss.attention != 0) teacher->keep_attention(match_attention(student.config(), teacher->config(), origins));
    if (options_.loss.hidden != 0) {
      match.emplace(pair_blocks(origins, teacher->config().layers), student.config().hidden, teacher->config().hidden, context.seed);
      teacher->keep_hidden(match->pairs());
    }
    return teacher;
  }

  /// Block by block; throws Error(usage) when one attends in another form.
  static std::vector<int64_t> match_attention(const ModelConfig& student, const ModelConfig& teacher, std::span<const int64_t> origins) {
    std::vector<int64_t> pairs = pair_attention(origins, teacher.layers);
    for (int64_t block = 0; block < student.layers; ++block) {
      const int64_t other = pairs[static_cast<size_t>(block)];
      const ModelConfig own = student.at_block(block), wanted = teacher.at_block(other);
      const auto describe = [](const ModelConfig& config) { return fmt::format("{} heads{}", config.heads, config.window > 0 ? fmt::format(" in a window of {}", config.window) : ""); };
      if (own.heads != wanted.heads || own.window != wanted.window) throw Error(ErrorKind::usage, fmt::format("distill: attention_weight: block {} of the student has {}, block {} of the teacher, whose attention it should learn, {}; expected the same", block, describe(own), other, describe(wanted)));
    }
    return pairs;
  }

  /// How many steps the time is enough for.
  int64_t fit_steps(const Model& model, TrainableModel& trainable, Teacher& teacher, const Sequences& samples, TrainingPlan plan, const PassContext& context) const {
    IdleLearner idle(model);
    plan.name = "time a step";
    plan.steps = 3;
    train(trainable, idle, teacher, samples, plan, context);
    if (plan.hidden)
      for (HiddenMatch::Projection& projection : plan.hidden->projections()) std::ranges::fill(projection.gradient.values(), 0.0f);
    return std::max<int64_t>(1, static_cast<int64_t>(*options_.max_minutes * 60 / idle.seconds_per_step()));
  }

  DistillOptions options_;
};

}  // namespace

std::unique_ptr<Pass> make_distill(const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<Distill>(std::move(fields), where);
}

}  // namespace llmc
