// llmc evaluate: quality of models on text and on questions, alone or beside references.
#include <fmt/format.h>

#include <deque>
#include <nlohmann/json.hpp>

#include "calib/choice_data.h"
#include "calib/model_tokens.h"
#include "calib/npy.h"
#include "cli/command.h"
#include "cli/report_table.h"
#include "cli/shared_options.h"
#include "core/error.h"
#include "core/json.h"
#include "core/output.h"
#include "passes/compress.h"

namespace llmc {
namespace {

using nlohmann::json;

struct EvaluateOptions {
  std::vector<std::string> models;
  std::vector<std::string> references;
  std::string data;
  std::vector<std::string> choices;
  std::string logits;
  bool hidden_errors = false;
  EvaluationFlags evaluation;
  int64_t seed = 0;
  std::vector<std::string> ignored_config_fields;
};

/// The models of a run; they stay where they are.
struct LoadedModels {
  std::deque<Model> memory;
  SideBySide run;
};

LoadedModels load_models(const EvaluateOptions& options, const RunContext& context) {
  const std::set<std::string> ignored = as_set(options.ignored_config_fields);
  LoadedModels loaded;
  for (const std::string& path : options.models) loaded.run.models.push_back(&loaded.memory.emplace_back(load_model(path, ignored, context)));
  for (const std::string& path : options.references) loaded.run.references.push_back(&loaded.memory.emplace_back(load_model(path, ignored, context)));
  if (options.hidden_errors) loaded.run.hidden_errors = HiddenErrors::measured;
  return loaded;
}

/// What every model says about text.
struct OnText {
  std::vector<Judgement> judgements;
  std::vector<OracleAgreement> oracles;  ///< of each model
  std::vector<ProductSpeeds> products;
};

OnText judge_text(const EvaluateOptions& options, const SideBySide& run, const ForwardOptions& forward, const WindowOptions& window_options, const RunContext& context) {
  const Model& first = *run.models.front();
  const std::optional<std::filesystem::path> file = options.data.empty() ? std::nullopt : std::optional<std::filesystem::path>(options.data);
  const RunText text = load_run_text(first, {.evaluation_data = file, .windows = window_options});
  OnText result{.judgements = evaluate_all(run, text.windows, text.data.name, forward, context)};
  for (const Model* model : run.models) {
    result.oracles.push_back(check_against_oracle(*model, text.windows, forward, static_cast<uint64_t>(options.seed)));
    result.products.push_back(measure_products(*model, forward, context));
  }
  if (!options.logits.empty()) {
    const Matrix logits = compute_logits(first, text.windows.list.front().tokens, forward);
    write_file_atomically(options.logits, encode_npy(DType::f32, std::as_bytes(logits.values()), {logits.rows(), logits.cols()}));
  }
  return result;
}

/// By file, then by model.
std::vector<std::vector<ChoiceQuality>> judge_questions(const EvaluateOptions& options, const SideBySide& run, const ForwardOptions& forward, const RunContext& context) {
  std::vector<std::vector<ChoiceQuality>> result;
  if (options.choices.empty()) return result;
  const Model& first = *run.models.front();
  const auto tokenizer = load_tokenizer(first);
  if (!tokenizer) throw Error(ErrorKind::input, fmt::format("{}: not found; {} needs it", tokenizer_name(first), options.choices.front()));
  for (const std::string& path : options.choices) {
    const ChoiceData data = load_choice_data(path, {.tokenizer = *tokenizer, .begin = find_begin_token(first, &*tokenizer), .vocabulary = first.config().vocabulary, .context = first.config().longest_text()});
    result.push_back(judge_choices(run, data, forward, context));
  }
  return result;
}

json to_json(const EvaluateOptions& options, const OnText* text, const std::vector<std::vector<ChoiceQuality>>& choices) {
  json result = {{"precision", options.evaluation.precision}, {"models", json::array()}};
  for (size_t i = 0; i < options.models.size(); ++i) {
    json model = {{"model", options.models[i]}, {"choices", json::array()}};
    if (text) {
      model.update({{"quality", to_json(text->judgements[i].quality)}, {"oracle", to_json(text->oracles[i])}, {"sparse_products", to_json(text->products[i])}, {"comparisons", json::array()}});
      for (size_t r = 0; r < options.references.size(); ++r) {
        json comparison = to_json(text->judgements[i].comparisons[r]);
        comparison["reference"] = options.references[r];
        model["comparisons"].push_back(std::move(comparison));
      }
    }
    for (const auto& of_file : choices) model["choices"].push_back(to_json(of_file[i]));
    result["models"].push_back(std::move(model));
  }
  // What the first model is, for scripts that judge one.
  for (const char* key : {"model", "quality", "oracle", "sparse_products"}) result[key] = result["models"][0].value(key, json());
  result["reference"] = options.references.empty() ? json() : json(options.references.front());
  return result;
}

int run_evaluate(const EvaluateOptions& options, const CommandContext& context) {
  const ForwardOptions forward = read_forward_options(options.evaluation);
  const WindowOptions window_options = read_window_options(options.evaluation);
  const bool is_on_text = options.choices.empty() || !options.data.empty();
  if (!is_on_text && !options.logits.empty()) throw Error(ErrorKind::usage, "--logits: are of text; with --choices give --data too");
  if (options.hidden_errors && options.references.empty()) throw Error(ErrorKind::usage, "--hidden-errors: needs a --reference to compare with");
  if (!is_on_text && options.hidden_errors) throw Error(ErrorKind::usage, "--hidden-errors: are of text; with --choices give --data too");
  const LoadedModels loaded = load_models(options, context.run);
  const std::optional<OnText> text = is_on_text ? std::optional(judge_text(options, loaded.run, forward, window_options, context.run)) : std::nullopt;
  const auto choices = judge_questions(options, loaded.run, forward, context.run);
  if (context.common.json) {
    fmt::print("{}", format_json(to_json(options, text ? &*text : nullptr, choices)));
    return exit_done;
  }
  std::string shown;
  if (text && options.models.size() == 1 && options.references.size() <= 1 && !options.hidden_errors) {
    shown += format_quality(text->judgements.front().quality, text->oracles.front()) + format_products(text->products.front());
  } else if (text) {
    shown += format_judgements(options.models, options.references, text->judgements);
    for (size_t i = 0; i < options.models.size(); ++i) shown += fmt::format("{}: fast pass against the oracle: max |Δ logit| {:.2e} over {} positions\n", options.models[i], text->oracles[i].max_logit_difference, text->oracles[i].positions);
  }
  for (const auto& of_file : choices) shown += (shown.empty() ? "" : "\n") + format_choices(options.models, options.references, of_file);
  fmt::print("{}", shown);
  return exit_done;
}

}  // namespace

CommandFunction add_evaluate(CLI::App& app) {
  app.description("Measures models on text and questions: perplexity, accuracy, and beside references KL divergence, agreement and hidden states.");
  app.footer("Examples:\n  llmc evaluate MODEL --data held_out.txt\n  llmc evaluate OUT --reference MODEL --data ids.npy --json\n  llmc evaluate OUT4 OUT8 --reference MODEL --hidden-errors\n  llmc evaluate MODEL --data wiki.test.raw --convention second-half\n  llmc evaluate OUT --reference MODEL --choices blimp/*.jsonl");
  auto options = std::make_shared<EvaluateOptions>();
  app.add_option("MODEL", options->models, "Checkpoint or artifact directories, or GGUF files; all with the vocabulary of the first, whose tokenizer is used")->required();
  app.add_option("--reference", options->references, "Models to compare each with, run side by side");
  app.add_option("--data", options->data, "Text, or token ids (.npy, .u16, .u32); default: the bundled text, unless there are --choices");
  app.add_option("--choices", options->choices, "Questions with several answers (.jsonl): pairs of sentences as BLiMP has them, or context, choices and answer");
  app.add_flag("--hidden-errors", options->hidden_errors, "How far hidden states are from the references', block by block");
  add_evaluation_flags(app, options->evaluation, "--seqlen");
  app.add_option("--seed", options->seed, "Picks the sample of the text that the oracle checks")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--logits", options->logits, "Write the first window's logits of the first model to this .npy file (f32 [tokens, vocabulary])");
  add_ignored_config_fields(app, options->ignored_config_fields);
  return [options](const CommandContext& context) { return run_evaluate(*options, context); };
}

}  // namespace llmc
