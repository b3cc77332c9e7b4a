// llmc distill: a recipe that makes a student and trains it, from flags.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "cli/compress_options.h"
#include "cli/number_checks.h"
#include "core/units.h"
#include "passes/distillation_bundle.h"

namespace llmc {
namespace {

struct DistillFlags {
  CompressOptions common;
  std::string student;
  std::string bundle;
  std::optional<int64_t> layers;
  std::string ffn;
  CalibrationOptions data = {.samples = 0};
  std::string precision = std::string(to_string(CalibrationOptions().precision));
  std::optional<int64_t> steps;
  std::optional<double> minutes;
  nlohmann::json training = {{"pass", "distill"}};  ///< those given
  bool cache_teacher = false;
  bool activation_checkpointing = false;
};

/// The teacher's sizes; its weights stay in their files.
ModelConfig read_teacher_config(const DistillFlags& flags) { return place_tensors(open_checkpoint(flags.common.model), as_set(flags.common.ignored_config_fields)).config(); }

/// What of the teacher goes, as prune.structured reads it: the flags say what stays.
nlohmann::json make_derivation(const DistillFlags& flags) {
  const ModelConfig teacher = read_teacher_config(flags);
  nlohmann::json step = {{"pass", "prune.structured"}};
  if (flags.layers) {
    if (*flags.layers >= teacher.layers) throw Error(ErrorKind::usage, fmt::format("--student-layers: expected fewer than the teacher's {}, found {}", teacher.layers, *flags.layers));
    step["layers"] = teacher.layers - *flags.layers;
  }
  if (!flags.ffn.empty()) {
    const bool is_share = flags.ffn.find_first_of("%.") != std::string::npos;
    const double kept = is_share ? parse_share(flags.ffn, "--student-ffn") : static_cast<double>(parse_size(flags.ffn, "--student-ffn"));
    const double all = is_share ? 1 : static_cast<double>(teacher.ffn);
    if (!(kept > 0 && kept < all)) throw Error(ErrorKind::usage, fmt::format("--student-ffn: expected a share such as 50% or fewer than the teacher's {} channels, found '{}'", teacher.ffn, flags.ffn));
    if (is_share) step["ffn"] = 1 - kept;
    else step["ffn"] = teacher.ffn - static_cast<int64_t>(kept);
  }
  return step;
}

/// The flags that say how to train, as a step.
nlohmann::json make_training(const DistillFlags& flags) {
  if (flags.steps.has_value() == flags.minutes.has_value()) throw Error(ErrorKind::usage, fmt::format("expected either --steps or --max-minutes, found {}", flags.steps ? "both" : "neither"));
  nlohmann::json training = flags.training;
  if (flags.steps) training["steps"] = *flags.steps;
  if (flags.minutes) training["max_minutes"] = *flags.minutes;
  if (flags.cache_teacher) training["cache_teacher"] = true;
  if (flags.activation_checkpointing) training["activation_checkpointing"] = true;
  return training;
}

/// Student, samples and targets are the bundle's.
Recipe make_bundle_recipe(const DistillFlags& flags, const CLI::App& app) {
  std::vector<std::string> given;
  for (const char* flag : {"--student", "--student-layers", "--student-ffn", "--temperature", "--hidden-weight", "--attention-weight", "--cache-teacher", "--data", "--data-field", "--generate-samples", "--seqlen"})
    if (app.count(flag) > 0) given.emplace_back(flag);
  if (!given.empty()) throw Error(ErrorKind::usage, fmt::format("{} makes no sense with --from-bundle, which has all of it", fmt::join(given, ", ")));
  const std::filesystem::path bundle = flags.bundle;
  const BundleInfo info = read_bundle_info(bundle);
  nlohmann::json training = make_training(flags);
  training["temperature"] = info.temperature;
  training["targets"] = (bundle / "targets.safetensors").string();
  Recipe recipe;
  recipe.steps = {nlohmann::json{{"pass", "student"}, {"from", (bundle / "student").string()}}, training};
  recipe.calibration = CalibrationOptions{.files = {(bundle / "tokens.npy").string()}, .samples = 0, .seqlen = info.seqlen, .packing = Packing::document, .precision = parse_precision(flags.precision, "--training-precision")};
  complete_recipe(recipe, "distill");
  return recipe;
}

Recipe make_distill_recipe(const DistillFlags& flags, const CLI::App& app) {
  if (!flags.bundle.empty()) return make_bundle_recipe(flags, app);
  const bool is_derived = flags.layers || !flags.ffn.empty();
  if (is_derived != flags.student.empty()) throw Error(ErrorKind::usage, fmt::format("say what the student is: either --student, or what stays of the teacher by --student-layers, --student-ffn, or --from-bundle{}", is_derived ? "; both were given" : ""));
  const nlohmann::json training = make_training(flags);
  Recipe recipe;
  recipe.steps = {is_derived ? make_derivation(flags) : nlohmann::json{{"pass", "student"}, {"from", flags.student}}, training};
  recipe.calibration = flags.data;
  recipe.calibration->precision = parse_precision(flags.precision, "--training-precision");
  complete_recipe(recipe, "distill");
  return recipe;
}

}  // namespace

CommandFunction add_distill(CLI::App& app) {
  app.description("Trains a smaller model, the student, to say what a teacher says.");
  app.footer("Examples:\n  llmc distill TEACHER --student-layers 4 -o OUT --data text.txt --steps 500\n  llmc distill TEACHER --student-layers 4 --student-ffn 50% -o OUT --data text.txt --max-minutes 10\n  llmc distill TEACHER --student config.json -o OUT --data text.txt --steps 5000 --ce-weight 0.5 --lr 1e-3");
  auto flags = std::make_shared<DistillFlags>();
  add_compress_options(app, flags->common);
  add_format_option(app, flags->common);
  app.get_option("MODEL")->description("The teacher: a Hugging Face checkpoint directory");
  app.add_option("--student", flags->student, "A checkpoint directory to start from, or a config.json: a model of random weights that --seed makes")->group("Student");
  app.add_option("--from-bundle", flags->bundle, "Train what `llmc export --for-distillation` wrote: its student, on its samples and targets; the teacher is only judged beside")->group("Student");
  app.add_option("--student-layers", flags->layers, "Start from this many of the teacher's own layers, those that change its hidden states most")->check(whole_number(1))->group("Student");
  app.add_option("--student-ffn", flags->ffn, "Start from this many of the teacher's feed-forward channels in each layer, such as 50% or 384; what is left is fitted to make up for the others")->group("Student");

  const auto add_training = [&]<typename T>(const char* flag, const char* field, const char* text, T) { return app.add_option_function<T>(flag, [flags, field](const T& value) { flags->training[field] = value; }, text)->group("Training"); };
  app.add_option("--steps", flags->steps, "Steps to train for")->check(whole_number(1))->group("Training");
  app.add_option("--max-minutes", flags->minutes, "As many steps as this time is enough for, measured before the first; the artifact's recipe says how many that were")->check(positive_number())->group("Training");
  add_training("--temperature", "temperature", "Softens what teacher and student say before they are compared (default 2)", double{});
  add_training("--kl-weight", "kl_weight", "Of T² · KL(teacher ‖ student) in the loss (default 1)", double{});
  add_training("--ce-weight", "ce_weight", "Of the cross-entropy on the text in the loss (default 0)", double{});
  add_training("--hidden-weight", "hidden_weight", "Of the distance between hidden states after each block of the student and those of the teacher there, as a share of the latter; through learned projections where widths differ (default 0)", double{});
  add_training("--attention-weight", "attention_weight", "Of KL(teacher's attention ‖ student's) in each head of each block, which must be as many (default 0)", double{});
  add_training("--lr", "rate", "Highest learning rate (default 5e-4)", double{});
  add_training("--batch", "batch", "Samples that go through the model at once (default 8)", int64_t{});
  add_training("--accumulate", "accumulate", "Batches in a step (default 1)", int64_t{});
  add_training("--schedule", "schedule", "How the rate falls: cosine (default) or linear, to 0, or constant", std::string{});
  add_training("--warmup", "warmup", "Steps over which the rate rises first (default 10)", int64_t{});
  add_training("--optimizer", "optimizer", "adamw (default) or sgd, with momentum", std::string{});
  add_training("--weight-decay", "weight_decay", "Of matrices (default 0)", double{});
  add_training("--clip", "clip", "Longest gradient of a step, over all weights (default 1); 0: any", double{});
  app.add_option("--training-precision", flags->precision, "Matrix products of the training: f32 or bf16; the weights that learn are f32 in both")->capture_default_str()->group("Training");
  app.add_flag("--activation-checkpointing", flags->activation_checkpointing, "Keep each block's input only and run it again before it goes backward: less memory, a third more time, the same bytes")->group("Training");
  app.add_flag("--cache-teacher", flags->cache_teacher, "Run the teacher over all samples once and keep its last hidden states, from which its head makes all logits; in memory")->group("Training");
  app.add_option("--resume", flags->common.resume, "Keep the state of the training in this directory; after a kill or Ctrl-C the same command goes on from there, to the same bytes")->group("Training");

  app.add_option("--data", flags->data.files, "Text, .jsonl, or token ids (.npy, .u16, .u32) to train on, one or more files; default: the bundled calibration text")->type_name("FILE")->group("Data");
  app.add_option("--data-field", flags->data.field, "Field of a JSONL line that holds its text")->capture_default_str()->group("Data");
  app.add_option("--generate-samples", flags->data.generated, "Samples more, that the teacher writes itself, drawn by --seed")->check(whole_number(0))->capture_default_str()->group("Data");
  app.add_option("--seqlen", flags->data.seqlen, "Tokens in a sample; default: 512, or the model's context if less")->check(whole_number(1))->group("Data");
  return [flags, &app](const CommandContext& context) { return run_compress("distill", flags->common, make_distill_recipe(*flags, app), context); };
}

}  // namespace llmc
