// llmc export: an ordinary checkpoint from any artifact, or what a student is trained from elsewhere.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/number_checks.h"
#include "cli/shared_options.h"
#include "core/json.h"
#include "core/error.h"
#include "core/output.h"
#include "core/units.h"
#include "model/ignored_fields.h"
#include "model/quantized_linear.h"
#include "passes/artifact.h"
#include "passes/compress.h"
#include "passes/distillation_bundle.h"

namespace llmc {
namespace {

constexpr const char* bundle_group = "For distillation";

struct ExportOptions {
  std::string model;
  std::string output;
  bool dense = false;
  bool for_distillation = false;
  std::string student;
  CalibrationOptions data = {.samples = 0};
  SoftTargetOptions targets;
  uint64_t seed = 0;
  std::string dtype;
  std::string shard_size;
  bool force = false;
  std::vector<std::string> ignored_config_fields;
};

int run_bundle(const ExportOptions& options, const CommandContext& context) {
  if (options.student.empty()) throw Error(ErrorKind::usage, "--for-distillation: say by --student what is trained, a checkpoint directory (`llmc prune --structured` makes one of the teacher)");
  const nlohmann::json manifest = write_distillation_bundle({.teacher = options.model, .student = options.student, .output = options.output, .data = options.data, .targets = options.targets, .seed = options.seed, .ignored_config_fields = as_set(options.ignored_config_fields), .overwrite = options.force ? Overwrite::replace : Overwrite::refuse}, context.run);
  if (context.common.json) fmt::print("{}", format_json({{"bundle", options.output}, {"manifest", manifest}}));
  else fmt::print("{}: {} samples of {} tokens, the teacher's {} likeliest next tokens of each\n", options.output, manifest.at("samples").get<int64_t>(), manifest.at("seqlen").get<int64_t>(), manifest.at("top").get<int64_t>());
  return exit_done;
}

/// The weights as floats of that type, rounded to nearest, and config.json that says so.
void convert_floats(Model& model, DType dtype) {
  for (const PlacedTensor& placed : model.tensors()) {
    become_floats(*placed.tensor, dtype);
    model.checkpoint().release_pages_after(*placed.tensor);
  }
  nlohmann::json& config = model.checkpoint().config;
  config[config.contains("torch_dtype") ? "torch_dtype" : "dtype"] = get_info(dtype).torch_name;
}

void refuse_bundle_flags(const CLI::App& app) {
  for (const CLI::Option* option : app.get_options())
    if (option->get_group() == bundle_group && option->count() > 0) throw Error(ErrorKind::usage, fmt::format("{} makes no sense with --dense; it is about --for-distillation", option->get_name()));
}

/// A directory of such a name would be taken for a file.
void refuse_gguf_name(const std::filesystem::path& output) {
  const std::filesystem::path name = output.filename().empty() ? output.parent_path() : output;  // a trailing slash
  if (name.extension() == ".gguf") throw Error(ErrorKind::usage, fmt::format("output {}: export writes a directory; expected a name that does not end in .gguf (`llmc convert` writes a GGUF file)", output.string()));
}

int run_export(const ExportOptions& options, const CLI::App& app, const CommandContext& context) {
  if (options.dense == options.for_distillation) throw Error(ErrorKind::usage, fmt::format("--dense or --for-distillation is required{}", options.dense ? ", and not both" : ""));
  refuse_gguf_name(options.output);
  if (options.for_distillation && !(options.dtype.empty() && options.shard_size.empty())) throw Error(ErrorKind::usage, "--dtype and --shard-size make no sense with --for-distillation");
  if (options.for_distillation) return run_bundle(options, context);
  refuse_bundle_flags(app);
  const std::optional<uint64_t> shard_bytes = read_shard_size(options.shard_size);
  refuse_own_output(options.model, options.output);
  StagedDirectory staged(options.output, options.force ? Overwrite::replace : Overwrite::refuse);
  Model model = load_model(options.model, as_set(options.ignored_config_fields), context.run);
  warn_of_idle_fields({&model}, as_set(options.ignored_config_fields), context.run);
  if (find_execution(model) != Execution::floats) context.run.sink.warn(fmt::format("{}: rounds the inputs of its layers; an ordinary checkpoint cannot say that and runs them as they are", options.model));
  if (!options.dtype.empty()) convert_floats(model, *find_dtype(options.dtype));
  const Provenance provenance{.command = "export", .source_hashes = hash_sources(model.checkpoint(), context.run)};
  write_artifact(staged.path(), Container::dense, model, provenance, shard_bytes, context.run);
  uint64_t bytes = 0;
  {
    const Model reopened = load_model(staged.path(), as_set(options.ignored_config_fields), context.run);
    check_reopened(model, reopened, Container::dense);
    bytes = reopened.checkpoint().weight_bytes();
  }
  staged.commit();
  if (context.common.json)
    fmt::print("{}", format_json({{"source", {{"path", options.model}, {"bytes", model.checkpoint().weight_bytes()}}}, {"artifact", {{"path", options.output}, {"bytes", bytes}}}}));
  else
    fmt::print("{} → {}   {} → {}\n", options.model, options.output, format_size(model.checkpoint().weight_bytes()), format_size(bytes));
  return exit_done;
}

}  // namespace

CommandFunction add_export(CLI::App& app) {
  app.description("Writes an artifact as an ordinary checkpoint: pruned weights exactly, quantized ones as the f32 values of their codes.");
  app.footer("Examples:\n  llmc export OUT --dense -o DENSE\n  llmc export TEACHER --for-distillation --student STUDENT -o BUNDLE --data text.txt");
  auto options = std::make_shared<ExportOptions>();
  app.add_option("MODEL", options->model, "Checkpoint or artifact directory, or a GGUF file")->required();
  app.add_option("-o,--output", options->output, "Directory to write; it appears complete or not at all")->required();
  app.add_flag("--dense", options->dense, "Write dense float tensors");
  app.add_flag("--for-distillation", options->for_distillation, "Write a bundle to train a student from, with llmc or with the PyTorch script in it: the student, tokens, and what this model says of them");
  const auto of_bundle = [](CLI::Option* option) { option->group(bundle_group); };
  of_bundle(app.add_option("--student", options->student, "The student's first weights: a float checkpoint directory"));
  of_bundle(app.add_option("--data", options->data.files, "Text, .jsonl, or token ids (.npy, .u16, .u32), one or more files; default: the bundled calibration text")->type_name("FILE"));
  of_bundle(app.add_option("--data-field", options->data.field, "Field of a JSONL line that holds its text")->capture_default_str());
  of_bundle(app.add_option("--seqlen", options->data.seqlen, "Tokens in a sample; default: 512, or the model's context if less")->check(whole_number(1)));
  of_bundle(app.add_option("--nsamples", options->data.samples, "Samples, drawn by --seed; 0: all there are")->check(whole_number(0))->capture_default_str());
  of_bundle(app.add_option("--seed", options->seed, "Picks the samples")->capture_default_str());
  of_bundle(app.add_option("--top-k", options->targets.top, "Next tokens of each that are named; the others count as one")->check(whole_number(1))->capture_default_str());
  of_bundle(app.add_option("--temperature", options->targets.temperature, "Softens the probabilities")->check(real_number(0.01, 100))->capture_default_str());
  app.add_option("--dtype", options->dtype, "Round all weights to this float type: F64, F32, F16 or BF16; default: floats as they are, codes as F32")->transform(CLI::IsMember({"F64", "F32", "F16", "BF16"}, CLI::ignore_case))->group("Output");
  add_shard_size(app, options->shard_size);
  app.add_flag("--force", options->force, "Replace an earlier artifact at OUTPUT");
  add_ignored_config_fields(app, options->ignored_config_fields);
  return [options, &app](const CommandContext& context) { return run_export(*options, app, context); };
}

}  // namespace llmc
