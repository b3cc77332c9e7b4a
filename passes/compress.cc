#include "passes/compress.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>

#include "calib/bundled_text.h"
#include "calib/tokenizer.h"
#include "core/error.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/process_memory.h"
#include "core/version.h"
#include "model/untie_head.h"
#include "passes/artifact.h"

namespace llmc {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// Times a step and records its peak memory in the report.
template <typename Body>
auto measure(Report& report, const std::string& name, Body body) {
  reset_peak_memory();
  const auto start = std::chrono::steady_clock::now();
  auto result = body();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  report.steps.push_back({.name = name, .seconds = elapsed.count(), .peak_memory_bytes = peak_memory_bytes()});
  return result;
}

/// Final treatment of each tensor, later steps appended to earlier ones.
using TreatmentTexts = std::map<std::string, std::string>;

void run_passes(const Recipe& recipe, CheckedRecipe& checked, Model& model, TreatmentTexts& texts, Report& report, const RunContext& context) {
  for (size_t i = 0; i < checked.passes.size(); ++i) {
    for (const Treatment& treatment : checked.treatments[i]) {
      std::string& text = texts[treatment.target->tensor->name];
      text += (text.empty() ? "" : " + ") + treatment.description;
    }
    const json details = measure(report, recipe.steps[i].at("pass").get<std::string>(), [&] { return checked.passes[i]->run(model, context); });
    report.steps.back().details = details;
  }
  for (const PlacedTensor& placed : model.tensors()) round_floats(*placed.tensor);
}

/// `stored` and `errors` are in the order of the compressed model's tensors.
void fill_tensors(Report& report, const Model& original, const Model& compressed, const std::vector<StoredAs>& stored, const std::vector<TensorError>& errors, const TreatmentTexts& texts) {
  int64_t treated = 0, zeros = 0;
  for (size_t i = 0; i < compressed.tensors().size(); ++i) {
    const PlacedTensor& placed = compressed.tensors()[i];
    const auto text = texts.find(placed.tensor->name);
    const bool is_new = placed.row->role == Role::output_head && original.config().tied_head;
    report.tensors.push_back({.name = placed.tensor->name,
                              .role = std::string(to_string(placed.row->role)) + (placed.part == Part::bias ? "_bias" : ""),
                              .block = placed.block,
                              .shape = placed.tensor->shape,
                              .treatment = text == texts.end() ? "kept" : text->second,
                              .codec = std::string(stored[i].codec),
                              .source_bytes = is_new ? 0 : static_cast<uint64_t>(placed.tensor->count()) * get_info(placed.tensor->dtype).bytes,
                              .bytes = stored[i].bytes,
                              .error = errors[i],
                              .moved = placed.tensor->moved});
    if (text == texts.end()) continue;
    treated += errors[i].count;
    zeros += errors[i].zeros;
  }
  report.sparsity = treated == 0 ? 0 : static_cast<double>(zeros) / static_cast<double>(treated);
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

void refuse_own_output(const fs::path& model, const fs::path& output) {
  const fs::path source = fs::weakly_canonical(model), target = fs::weakly_canonical(output);
  if (source == target || std::ranges::mismatch(source, target).in2 == target.end())
    throw Error(ErrorKind::usage, fmt::format("output {} is the model's own directory or holds it; choose another", output.string()));
}

Model load_source(const CompressRequest& request, const RunContext& context) {
  Model model = load_model(request.model, request.ignored_config_fields, context);
  if (model.checkpoint().container != Container::dense)
    throw Error(ErrorKind::input, fmt::format("{}: is already compressed ({}); expected a float checkpoint (`llmc export --dense` makes one)", model.checkpoint().directory.string(), to_string(model.checkpoint().container)));
  return request.recipe.untie_head ? untie_head(std::move(model), request.ignored_config_fields) : std::move(model);
}

EvaluationText load_evaluation_text(const Model& model, const std::optional<fs::path>& file, const WindowOptions& options) {
  std::optional<Tokenizer> tokenizer;
  const fs::path tokenizer_path = model.checkpoint().directory / "tokenizer.json";
  if (!file || !holds_token_ids(*file)) {
    if (!fs::exists(tokenizer_path)) throw Error(ErrorKind::input, fmt::format("{}: not found; {} needs it, or give token ids (.npy, .u16, .u32)", tokenizer_path.string(), file ? file->string() : "the bundled evaluation text"));
    tokenizer = Tokenizer::parse(read_text_file(tokenizer_path), tokenizer_path.string());
  }
  const int64_t vocabulary = model.config().vocabulary;
  EvaluationText text;
  text.data = file ? load_token_data(*file, {.tokenizer = tokenizer ? &*tokenizer : nullptr}, vocabulary) : tokenize_text(bundled_text(), "bundled text", *tokenizer, vocabulary);
  text.windows = cut_windows(text.data, options, model.config().context);
  return text;
}

CheckedRecipe check_recipe(const Recipe& recipe, const Model& model) {
  CheckedRecipe checked;
  for (const json& step : recipe.steps) checked.passes.push_back(make_pass(step, "recipe"));
  for (const auto& pass : checked.passes) checked.treatments.push_back(pass->plan(model));
  return checked;
}

Report compress(const CompressRequest& request, const RunContext& context) {
  Report report{.llmc_version = version_text, .source_path = request.model.string(), .artifact_path = request.output.string(), .recipe = to_json(request.recipe)};
  refuse_own_output(request.model, request.output);
  StagedDirectory staged(request.output, request.overwrite);  // fails before the work if it cannot be written

  Model model = measure(report, "load", [&] { return load_source(request, context); });
  const EvaluationText text = load_evaluation_text(model, request.evaluation_data, request.windows);
  CheckedRecipe checked = check_recipe(request.recipe, model);

  TreatmentTexts texts;
  run_passes(request.recipe, checked, model, texts, report, context);
  const ContainerChoice choice = choose_container(request.recipe.format, model);
  report.notes.insert(report.notes.end(), choice.reasons.begin(), choice.reasons.end());
  for (const std::string& reason : choice.reasons) context.sink.warn(reason);
  const std::vector<StoredAs> stored = measure(report, "write", [&] {
    const Provenance provenance{.command = request.command, .recipe = &request.recipe, .source_hashes = hash_sources(model.checkpoint(), context)};
    return write_artifact(staged.path(), choice.container, model, provenance, context);
  });

  const Model reopened = measure(report, "re-open", [&] {
    Model read_back = load_model(staged.path(), request.ignored_config_fields, context);
    check_reopened(model, read_back, choice.container);
    return read_back;
  });
  const Model original = load_model(request.model, request.ignored_config_fields, context);
  report.architecture = original.architecture().model_type;
  report.container = to_string(choice.container);
  report.parameters = original.parameters();
  report.source_bytes = original.checkpoint().weight_bytes();
  report.artifact_bytes = reopened.checkpoint().weight_bytes();
  if (choice.container == Container::llmc_packed) report.dense_bytes = dense_weight_bytes(original);
  report.pruned = std::ranges::any_of(model.tensors(), [](const PlacedTensor& placed) { return placed.tensor->pruned; });
  const auto errors = measure(report, "compare weights", [&] { return measure_tensor_errors(original, reopened, context); });
  fill_tensors(report, original, model, stored, errors, texts);

  report.quality = measure(report, "evaluate", [&] { return evaluate(reopened, &original, text.windows, text.data.name, request.forward, context); });
  report.oracle = measure(report, "oracle", [&] { return check_against_oracle(reopened, text.windows, request.forward, request.recipe.seed); });

  for (const GateLimit& limit : request.gates) report.gates.push_back(judge_gate(limit, gate_value(limit.name, report)));
  if (const double perplexity = report.quality->perplexity; !std::isfinite(perplexity))  // broken without any gate asking
    report.gates.push_back({.name = "finite_perplexity", .limit = std::numeric_limits<double>::max(), .value = perplexity, .passed = false});
  {
    OutputFile file(staged.path() / "report.json");
    file.write(format_json(to_json(report)));
    file.close();
  }
  context.check_stop();
  staged.commit();
  return report;
}

}  // namespace llmc
