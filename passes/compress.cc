#include "passes/compress.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <tuple>

#include "calib/generated_samples.h"
#include "calib/token_overlap.h"
#include "core/error.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/process_memory.h"
#include "core/sha256.h"
#include "core/version.h"
#include "core/staged_file.h"
#include "passes/artifact.h"
#include "passes/gguf_artifact.h"
#include "verify/model_cost.h"
#include "verify/sensitivity.h"
#include "verify/training_curve.h"

namespace llmc {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// Times a step and records in the report the peak memory up to its end.
template <typename Body>
auto measure(Report& report, const std::string& name, Body body) {
  const auto start = std::chrono::steady_clock::now();
  auto result = body();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  report.steps.push_back({.name = name, .seconds = elapsed.count(), .peak_memory_bytes = peak_memory_bytes()});
  return result;
}

/// Final treatment of each tensor, later steps appended to earlier ones: by what it does in which block of the source.
using TreatmentTexts = std::map<std::tuple<Role, int64_t, Part, int64_t>, std::string>;

TreatmentTexts::key_type text_key(const Model& model, const PlacedTensor& placed) { return {placed.row->role, source_block(model.origin(), placed.block), placed.part, placed.expert}; }

/// Of the source's tensor that this one was made from.
uint64_t source_bytes_of(const Model& original, const Model& compressed, const PlacedTensor& placed) {
  const StoredTensor* source = original.find(placed.row->role, source_block(compressed.origin(), placed.block), placed.part, placed.expert);
  return source ? static_cast<uint64_t>(source->count()) * get_info(source->dtype).bytes : 0;
}

/// `stored` and `errors` are in the order of the compressed model's tensors.
void fill_tensors(Report& report, const Model& original, const Model& compressed, const std::vector<StoredAs>& stored, const std::vector<TensorError>& errors, const TreatmentTexts& texts) {
  int64_t treated = 0, zeros = 0;
  for (size_t i = 0; i < compressed.tensors().size(); ++i) {
    const PlacedTensor& placed = compressed.tensors()[i];
    const auto text = texts.find(text_key(compressed, placed));
    const bool is_new = placed.row->role == Role::output_head && original.config().tied_head;
    report.tensors.push_back({.name = placed.tensor->name,
                              .role = std::string(to_string(placed.row->role)) + (placed.part == Part::bias ? "_bias" : ""),
                              .block = placed.block,
                              .shape = placed.tensor->shape,
                              .treatment = text == texts.end() ? "kept" : text->second,
                              .codec = std::string(stored[i].codec),
                              .candidates = stored[i].candidates,
                              .source_bytes = is_new ? 0 : source_bytes_of(original, compressed, placed),
                              .bytes = stored[i].bytes,
                              .multiply_adds = count_multiply_adds(compressed, placed),
                              .error = errors[i],
                              .moved = placed.tensor->moved});
    if (text == texts.end() || !is_block_linear(placed)) continue;  // what is trained only has no share in the zeros
    treated += errors[i].count;
    zeros += errors[i].zeros;
  }
  report.sparsity = treated == 0 ? 0 : static_cast<double>(zeros) / static_cast<double>(treated);
}

using Hashes = std::vector<std::pair<std::string, std::string>>;

/// How calibration runs, for a step of the recipe: activations and finished blocks go to `work`, or to the directory that the
/// user named, with the signature of all that the result depends on.
SweepOptions make_sweep_options(const CompressRequest& request, size_t step, const CalibrationData& data, const fs::path& work, const Hashes& source_hashes) {
  const CalibrationOptions& options = *request.recipe.calibration;
  SweepOptions result{.forward = {.precision = options.precision}, .activations = options.activations, .max_memory = request.max_memory};
  const fs::path& base = request.resume ? *request.resume : work;
  result.state_directory = result.spill_directory = base / fmt::format("step-{}", step + 1);
  if (request.resume) result.persistence = Persistence::resumable;
  std::string tokens;
  for (const auto& sample : data.samples) tokens += sha256(std::as_bytes(std::span(sample)));
  result.signature = {{"llmc_version", version_text}, {"recipe", to_json(request.recipe)}, {"step", step + 1}, {"calibration_sha256", sha256(std::as_bytes(std::span(tokens)))}, {"source_sha256", json::object()}};
  for (const auto& [file, hash] : source_hashes) result.signature["source_sha256"][file] = hash;
  return result;
}

/// `recipe`: that of the request, into which goes what passes settled while they ran.
void run_passes(const CompressRequest& request, Recipe& recipe, CheckedRecipe& checked, Model& model, const RunText& text, const fs::path& work, const Hashes& source_hashes, TreatmentTexts& texts, Report& report, const RunContext& context) {
  for (size_t i = 0; i < checked.passes.size(); ++i) {
    Pass& pass = *checked.passes[i];
    for (const Treatment& treatment : checked.treatments[i]) {
      std::string& description = texts[text_key(model, *treatment.target)];
      description += (description.empty() ? "" : " + ") + treatment.description;
    }
    PassContext pass_context{.run = context, .seed = request.recipe.seed, .calibration = nullptr, .sweep = {}, .state_directory = {}, .load_original = [&] { return load_model(request.model, request.ignored_config_fields, context); }};
    if (pass.needs_calibration()) {
      pass_context.calibration = &text.calibration->samples;
      pass_context.sweep = make_sweep_options(request, i, *text.calibration, work, source_hashes);
      pass_context.state_directory = request.resume.value_or(request.output.string() + "-interrupted") / fmt::format("step-{}", i + 1);
    }
    const json details = measure(report, request.recipe.steps[i].at("pass").get<std::string>(), [&] { return pass.run(model, pass_context); });
    report.steps.back().details = details;
    model.checkpoint().release_pages();
    recipe.steps[i] = pass.options();
  }
  for (const PlacedTensor& placed : model.tensors()) round_floats(*placed.tensor);
}

/// The report as JSON, and a plot of each scan in it.
void write_report(const fs::path& directory, const Report& report) {
  const auto write = [&](const std::string& name, const std::string& text) {
    OutputFile file(directory / name);
    file.write(text);
    file.close();
  };
  write("report.json", format_json(to_json(report)));
  const auto plot = [&](const std::string& key, const auto& draw) {
    int plots = 0;
    for (const StepReport& step : report.steps)
      if (step.details.contains(key)) ++plots, write(plots == 1 ? key + ".svg" : fmt::format("{}-{}.svg", key, plots), draw(step.details.at(key)));
  };
  plot("sensitivity", draw_sensitivity);
  plot("training", draw_training);
}

std::optional<double> gate_value(const std::string& name, const Report& report) {
  const Comparison* comparison = report.quality && report.quality->comparison ? &*report.quality->comparison : nullptr;
  if (name == "max_size") return static_cast<double>(report.artifact_bytes);
  if (name == "min_ratio") return report.ratio();
  if (!comparison) return std::nullopt;
  if (name == "max_ppl_increase") return comparison->perplexity_increase;
  if (name == "max_kl") return comparison->kl_mean;
  if (name == "min_top1_agreement") return comparison->top1_agreement;
  return std::nullopt;
}

}  // namespace

CheckedRecipe check_recipe(const Recipe& recipe, const Model& model) {
  CheckedRecipe checked;
  for (const json& step : recipe.steps) checked.passes.push_back(make_pass(step, "recipe"));
  checked.outlines.reserve(checked.passes.size());  // treatments point into them
  const Model* met = &model;
  for (const auto& pass : checked.passes) {
    checked.treatments.push_back(pass->plan(*met));
    if (auto outline = pass->outline(*met)) met = &checked.outlines.emplace_back(std::move(*outline));
  }
  Problems problems;  // what a pass will meet only when those before it have run
  std::set<const PlacedTensor*> quantized;
  for (size_t i = 0; i < checked.passes.size(); ++i) {
    const std::string name = recipe.steps[i].at("pass").get<std::string>();
    if (name == "heal" && i == 0) problems.add("heal is the first step; expected it after the steps whose damage it heals");
    if (name == "distill" && i == 0) problems.add("distill is the first step; expected a student before it: a step student, or one that prunes");
    if (name == "distill" && !quantized.empty()) problems.add("distill trains floats; expected it before the steps that quantize (heal trains what those leave)");
    if (name == "student" && i > 0) problems.add("student would undo the steps before it; expected it first");
    for (const Treatment& treatment : checked.treatments[i]) {
      if (name.starts_with("quantize.")) quantized.insert(treatment.target);
      else if (name.starts_with("prune.") && quantized.contains(treatment.target)) problems.add(fmt::format("tensor {}: is already quantized when {} comes to it; prune before quantizing", treatment.target->tensor->name, name));
    }
  }
  for (const json& step : recipe.steps)
    if (recipe.format == Format::gguf && step.at("pass").get<std::string>().starts_with("quantize.") && step.at("pass") != "quantize.gguf") problems.add(fmt::format("{}: GGUF has no such grid; leave the step out and give a type of GGUF (--type, in a recipe gguf: {{type: …}})", step.at("pass").get<std::string>()));
  problems.throw_if_any(ErrorKind::usage, "recipe");
  return checked;
}

namespace {

/// What the report says of the calibration data, with the overlap of it and the evaluation windows.
json describe_calibration(const RunText& text, Report& report, const RunContext& context) {
  json result = to_json(*text.calibration);
  std::vector<std::span<const int32_t>> windows;
  for (const Window& window : text.windows.list) windows.push_back(window.tokens);
  const TokenOverlap overlap = find_overlap(text.calibration->samples, windows);
  result["overlap"] = {{"run_tokens", overlap_run}, {"runs", overlap.runs}, {"shared", overlap.shared}, {"share", overlap.share()}};
  std::vector<std::string> warnings = text.calibration->warnings;
  if (overlap.shared > 0) warnings.push_back(fmt::format("calibration and evaluation data overlap: {:.1f} % of the evaluation tokens were calibrated on, so the quality figures are too good", 100 * overlap.share()));
  for (const std::string& warning : warnings) {
    report.notes.push_back(warning);
    context.sink.warn(warning);
  }
  return result;
}

/// Says which tokens went, and on what text the smaller vocabulary is judged.
void describe_vocabulary(Report& report, const Model& original, const Model& model, const RunText& text, const RunContext& context) {
  const int64_t before = original.config().vocabulary, after = model.config().vocabulary;
  report.steps.front().details["removed"]["vocabulary"] = {{"before", before}, {"after", after}};
  for (TensorReport& tensor : report.tensors)
    for (Role role : {Role::token_embedding, Role::output_head})
      if (tensor.role == to_string(role)) tensor.treatment = fmt::format("tokens {} → {}", before, after) + (tensor.treatment == "kept" ? "" : " + " + tensor.treatment);
  report.notes.push_back(fmt::format("the vocabulary went from {} to {} tokens: both models are judged on {} as the smaller one cuts it ({} tokens), the divergence is over the tokens that stayed", before, after, text.data.name, text.windows.tokens));
  context.sink.info(report.notes.back());
}

/// Where the result takes shape: a directory, or a GGUF file with its report beside it.
class OutputStage {
 public:
  explicit OutputStage(const CompressRequest& request) {
    const bool is_file = request.output.extension() == ".gguf";
    if (is_file != (request.recipe.format == Format::gguf)) throw Error(ErrorKind::usage, fmt::format("output {}: expected a name that {} with the format {}", request.output.string(), is_file ? "does not end in .gguf" : "ends in .gguf", to_string(request.recipe.format)));
    if (!is_file) {
      directory_.emplace(request.output, request.overwrite);
      return;
    }
    file_.emplace(request.output, request.overwrite);
    for (const char* name : {"report.json", "sensitivity.svg", "training.svg"}) file_->check_beside(name);  // write_report's
  }

  const fs::path& path() const { return file_ ? file_->directory() : directory_->path(); }
  /// What is opened as a model.
  fs::path artifact() const { return file_ ? file_->main_path() : directory_->path(); }
  /// Where the files of a GGUF model go.
  std::vector<fs::path> files(const GgufPlan& plan) {
    if (plan.shards.size() == 1) return {file_->path()};
    std::vector<fs::path> files;
    for (size_t number = 0; number < plan.shards.size(); ++number) files.push_back(file_->add_part(gguf_shard_ending(static_cast<int64_t>(number), std::ssize(plan.shards))));
    return files;
  }
  void commit() { file_ ? file_->commit() : directory_->commit(); }

 private:
  std::optional<StagedFile> file_;
  std::optional<StagedDirectory> directory_;
};

/// What the steps make of the model, such as a student, may take shorter texts than the source. Throws Error(usage).
void check_lengths(const CheckedRecipe& checked, const RunText& text) {
  for (const Model& outline : checked.outlines) {
    const int64_t context = outline.config().longest_text();
    if (text.windows.length > context) throw Error(ErrorKind::usage, fmt::format("--eval-seqlen: windows of {} tokens: the context of what is written is {}", text.windows.length, context));
    if (text.calibration && text.calibration->seqlen > context) throw Error(ErrorKind::usage, fmt::format("--seqlen: samples of {} tokens: the context of what is written is {}", text.calibration->seqlen, context));
  }
}

}  // namespace

Report compress(const CompressRequest& request, const RunContext& context) {
  Report report{.llmc_version = version_text, .source_path = request.model.string(), .artifact_path = request.output.string(), .recipe = to_json(request.recipe)};
  refuse_own_output(request.model, request.output);
  OutputStage staged(request);  // fails before the work if it cannot be written

  Model model = measure(report, "load", [&] { return load_source(request, context); });
  RunText text = load_run_text(model, request);
  if (text.calibration && request.recipe.calibration->generated > 0)
    measure(report, "generate calibration samples", [&] { return add_generated_samples(*text.calibration, model, *request.recipe.calibration, request.recipe.seed, context), true; });
  if (text.calibration) report.calibration = describe_calibration(text, report, context);
  CheckedRecipe checked = check_recipe(request.recipe, model);
  check_lengths(checked, text);

  if (request.recipe.format == Format::gguf) plan_gguf(checked.outlines.empty() ? model : checked.outlines.back(), request.recipe.gguf);  // refused before the work
  TreatmentTexts texts;
  const Hashes source_hashes = hash_sources(model.checkpoint(), context);
  const fs::path work = staged.path() / "work";  // goes with the staging directory if the run ends early
  Recipe recipe = request.recipe;
  run_passes(request, recipe, checked, model, text, work, source_hashes, texts, report, context);
  report.recipe = to_json(recipe);
  const ContainerChoice choice = choose_container(request.recipe.format, model);
  report.notes.insert(report.notes.end(), choice.reasons.begin(), choice.reasons.end());
  for (const std::string& reason : choice.reasons) context.sink.warn(reason);
  const std::vector<StoredAs> stored = measure(report, "write", [&] {
    const Provenance provenance{.command = request.command, .recipe = &recipe, .source_hashes = source_hashes};
    if (choice.container != Container::gguf) return write_artifact(staged.path(), choice.container, model, provenance, recipe.shard_bytes, context);
    const GgufPlan plan = plan_gguf(model, recipe.gguf, recipe.shard_bytes);
    for (const std::string& note : plan.notes) report.notes.push_back(note), context.sink.warn(note);
    const std::vector<fs::path> files = staged.files(plan);
    if (files.size() > 1) report.artifact_path = (request.output.parent_path() / files[0].filename()).string();
    return write_gguf(files, model, recipe.gguf, plan, provenance, context);
  });

  const Model reopened = measure(report, "re-open", [&] {
    Model read_back = load_model(staged.artifact(), request.ignored_config_fields, context);
    check_reopened(model, read_back, choice.container);
    for (const Model* read : {&model, &read_back}) read->checkpoint().release_pages();
    return read_back;
  });
  const Model original = load_model(request.model, request.ignored_config_fields, context);
  report.architecture = original.architecture().model_type;
  report.container = to_string(choice.container);
  report.parameters = original.parameters();
  report.multiply_adds = count_multiply_adds(original);
  report.source_bytes = original.checkpoint().weight_bytes();
  report.artifact_bytes = reopened.checkpoint().weight_bytes();
  if (choice.container == Container::llmc_packed) report.dense_bytes = dense_weight_bytes(model);
  report.pruned = std::ranges::any_of(model.tensors(), [](const PlacedTensor& placed) { return placed.tensor->pruned; });
  const auto errors = measure(report, "compare weights", [&] { return measure_tensor_errors(original, reopened, model.origin(), context); });
  fill_tensors(report, original, model, stored, errors, texts);
  if (!model.origin().tokens.empty()) describe_vocabulary(report, original, model, text, context);

  report.quality = measure(report, "evaluate", [&] { return evaluate(reopened, &original, text.windows, text.data.name, request.forward, context, model.origin().tokens); });
  report.oracle = measure(report, "oracle", [&] { return check_against_oracle(reopened, text.windows, request.forward, request.recipe.seed); });
  report.products = measure(report, "products", [&] { return measure_products(reopened, request.forward, context); });

  for (const GateLimit& limit : request.gates) report.gates.push_back(judge_gate(limit, gate_value(limit.name, report)));
  if (const double perplexity = report.quality->perplexity; !std::isfinite(perplexity))  // broken without any gate asking
    report.gates.push_back({.name = "finite_perplexity", .limit = std::numeric_limits<double>::max(), .value = perplexity, .passed = false});
  write_report(staged.path(), report);
  context.check_stop();
  std::error_code problem;
  fs::remove_all(work, problem);
  if (problem) throw Error(ErrorKind::output, fmt::format("{}: cannot be removed: {}", work.string(), problem.message()));
  staged.commit();
  return report;
}

}  // namespace llmc
