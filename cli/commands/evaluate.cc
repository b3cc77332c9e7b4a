// llmc evaluate: quality of models on text and on questions, alone or beside references.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <nlohmann/json.hpp>

#include "calib/choice_data.h"
#include "calib/model_tokens.h"
#include "calib/npy.h"
#include "calib/token_comparison.h"
#include "cli/command.h"
#include "cli/number_checks.h"
#include "cli/report_table.h"
#include "cli/shared_options.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "core/json.h"
#include "core/result_file.h"
#include "model/ignored_fields.h"
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
  std::vector<const Model*> all;
  for (const Model& model : loaded.memory) all.push_back(&model);
  warn_of_idle_fields(all, ignored, context);
  if (options.hidden_errors) loaded.run.hidden_errors = HiddenErrors::measured;
  return loaded;
}

/// Models first, then references.
std::vector<const Model*> all_of(const SideBySide& run) {
  std::vector<const Model*> all = run.models;
  all.insert(all.end(), run.references.begin(), run.references.end());
  return all;
}

/// The model with the shortest context, the first among equals.
const Model& find_shortest(const SideBySide& run) {
  const std::vector<const Model*> all = all_of(run);
  return **std::ranges::min_element(all, {}, [](const Model* model) { return model->config().longest_text(); });
}

/// Windows that every model can take. Throws Error(usage) naming the one that cannot.
WindowOptions fit_windows(WindowOptions options, const SideBySide& run) {
  const Model& shortest = find_shortest(run);
  const int64_t context = shortest.config().longest_text();
  if (options.length > context) throw Error(ErrorKind::usage, fmt::format("--seqlen: windows of {} tokens: {}'s context is {}", options.length, shortest.checkpoint().directory.string(), context));
  options.length = window_length(options, context);
  return options;
}

/// Ids of the first model's tokenizer are what all models are given: says where they stand for other tokens. Tokenizers that cannot be read
/// cannot be compared, and are no fault where nothing needs them. Returns what was found by directory.
std::map<std::filesystem::path, TokenComparison> compare_tokenizers(const SideBySide& run, const RunContext& context) {
  const auto load = [](const Model& model) {
    try {
      return load_tokenizer(model);
    } catch (const Error&) {
      return std::optional<Tokenizer>();
    }
  };
  const std::vector<const Model*> all = all_of(run);
  const std::string name = all.front()->checkpoint().directory.string();
  std::map<std::filesystem::path, TokenComparison> result;
  std::optional<Tokenizer> first;
  for (const Model* model : all) {
    if (model->checkpoint().directory == all.front()->checkpoint().directory || result.contains(model->checkpoint().directory)) continue;
    if (!first && !(first = load(*all.front()))) return result;
    const auto other = load(*model);
    if (!other) continue;
    const TokenComparison found = compare_tokens(*first, *other, std::min(all.front()->config().vocabulary, model->config().vocabulary));
    if (found.different > 0) context.sink.warn(fmt::format("{}: {} of {} token ids stand for other text than in {}, such as {}: {}, there {}; all models are given the ids of {}", model->checkpoint().directory.string(), found.different, found.compared, name, found.first, json(found.other_text).dump(), json(found.text).dump(), name));
    result.emplace(model->checkpoint().directory, found);
  }
  return result;
}

/// What every model says about text.
struct OnText {
  std::vector<Judgement> judgements;
  std::vector<OracleAgreement> oracles;  ///< of each model
  std::vector<ProductSpeeds> products;
};

OnText judge_text(const EvaluateOptions& options, const SideBySide& run, const ForwardOptions& forward, const WindowOptions& window_options, const ResultFile* logits_file, const RunContext& context) {
  const Model& first = *run.models.front();
  const std::optional<std::filesystem::path> file = options.data.empty() ? std::nullopt : std::optional<std::filesystem::path>(options.data);
  const RunText text = load_run_text(first, {.evaluation_data = file, .windows = window_options});
  OnText result{.judgements = evaluate_all(run, text.windows, text.data.name, forward, context)};
  for (const Model* model : run.models) {
    result.oracles.push_back(check_against_oracle(*model, text.windows, forward, static_cast<uint64_t>(options.seed)));
    result.products.push_back(measure_products(*model, forward, context));
  }
  if (logits_file) {
    const Matrix logits = compute_logits(first, text.windows.list.front().tokens, forward);
    logits_file->write(encode_npy(DType::f32, std::as_bytes(logits.values()), {logits.rows(), logits.cols()}));
  }
  return result;
}

/// Of each file.
std::vector<ChoiceData> load_questions(const EvaluateOptions& options, const SideBySide& run) {
  std::vector<ChoiceData> result;
  if (options.choices.empty()) return result;
  const Model& first = *run.models.front();
  const auto tokenizer = load_tokenizer(first);
  if (!tokenizer) throw Error(ErrorKind::input, fmt::format("{}: not found; {} needs it", tokenizer_name(first), options.choices.front()));
  for (const std::string& path : options.choices) result.push_back(load_choice_data(path, {.tokenizer = *tokenizer, .begin = find_begin_token(first, &*tokenizer), .vocabulary = first.config().vocabulary, .context = find_shortest(run).config().longest_text()}));
  return result;
}

json to_json(const EvaluateOptions& options, const SideBySide& run, const std::map<std::filesystem::path, TokenComparison>& tokens, const OnText* text, const std::vector<std::vector<ChoiceQuality>>& choices) {
  const auto other_tokens = [&](const Model& model) {
    const auto found = tokens.find(model.checkpoint().directory);
    return found == tokens.end() ? json() : json{{"compared", found->second.compared}, {"different", found->second.different}};
  };
  json result = {{"precision", options.evaluation.precision}, {"models", json::array()}};
  for (size_t i = 0; i < options.models.size(); ++i) {
    json model = {{"model", options.models[i]}, {"other_tokens", other_tokens(*run.models[i])}, {"quality", nullptr}, {"oracle", nullptr}, {"sparse_products", nullptr}, {"comparisons", json::array()}, {"choices", json::array()}};
    if (text) {
      model.update({{"quality", to_json(text->judgements[i].quality)}, {"oracle", to_json(text->oracles[i])}, {"sparse_products", to_json(text->products[i])}});
      for (size_t r = 0; r < options.references.size(); ++r) {
        json comparison = to_json(text->judgements[i].comparisons[r]);
        comparison["reference"] = options.references[r];
        comparison["other_tokens"] = other_tokens(*run.references[r]);
        model["comparisons"].push_back(std::move(comparison));
      }
    }
    for (const auto& of_file : choices) {
      json answers = to_json(of_file[i]);
      for (size_t r = 0; r < options.references.size(); ++r) answers["comparisons"][r]["reference"] = options.references[r];
      model["choices"].push_back(std::move(answers));
    }
    result["models"].push_back(std::move(model));
  }
  // What the first model is, for scripts that judge one.
  for (const char* key : {"model", "quality", "oracle", "sparse_products"}) result[key] = result["models"][0][key];
  result["reference"] = options.references.empty() ? json() : json(options.references.front());
  return result;
}

/// Flags that do nothing where only questions are asked.
void refuse_text_flags(const CLI::App& app) {
  for (const char* flag : {"--logits", "--hidden-errors", "--seqlen", "--stride", "--convention", "--max-windows", "--seed"})
    if (app.count(flag) > 0) throw Error(ErrorKind::usage, fmt::format("{}: is about text; with --choices give --data too", flag));
}

/// Checked against what the run reads.
std::optional<ResultFile> find_logits_file(const EvaluateOptions& options) {
  if (options.logits.empty()) return std::nullopt;
  std::vector<std::filesystem::path> others(options.models.begin(), options.models.end());
  for (const auto* more : {&options.references, &options.choices}) others.insert(others.end(), more->begin(), more->end());
  if (!options.data.empty()) others.emplace_back(options.data);
  return ResultFile({.flag = "--logits", .begins = "\x93NUMPY", .called = ".npy file"}, options.logits, others);
}

/// A perplexity that is not finite is a miss, as it is to the commands that write, and so is a share of answers. Returns the exit code.
int tell_misses(const EvaluateOptions& options, const OnText* text, const std::vector<std::vector<ChoiceQuality>>& choices) {
  std::vector<std::string> misses;
  const auto check = [&](const std::string& model, const std::string& what, double value) {
    if (!std::isfinite(value)) misses.push_back(fmt::format("{}: {} is {}", model, what, value));
  };
  for (size_t i = 0; text && i < options.models.size(); ++i) check(options.models[i], "perplexity", text->judgements[i].quality.perplexity);
  for (size_t r = 0; text && r < options.references.size(); ++r) check(options.references[r], "perplexity", text->judgements.front().comparisons[r].reference_perplexity);
  for (const auto& of_file : choices) {
    const std::string what = fmt::format("the share of right answers of {}", of_file.front().data);
    for (size_t i = 0; i < options.models.size(); ++i) check(options.models[i], what, of_file[i].accuracy.value);
    for (size_t r = 0; r < options.references.size(); ++r) check(options.references[r], what, of_file.front().comparisons[r].reference_accuracy);
  }
  if (misses.empty()) return exit_done;
  std::fflush(stdout);
  write_untrusted(fmt::format("llmc: {}, expected a finite one", fmt::join(misses, "; ")));
  return exit_gate_missed;
}

int run_evaluate(const EvaluateOptions& options, const CLI::App& app, const CommandContext& context) {
  const ForwardOptions forward = read_forward_options(options.evaluation);
  const WindowOptions window_options = read_window_options(options.evaluation);
  const bool is_on_text = options.choices.empty() || !options.data.empty();
  if (!is_on_text) refuse_text_flags(app);
  if (options.hidden_errors && options.references.empty()) throw Error(ErrorKind::usage, "--hidden-errors: needs a --reference to compare with");
  const std::optional<ResultFile> logits = find_logits_file(options);
  const LoadedModels loaded = load_models(options, context.run);
  const WindowOptions windows = fit_windows(window_options, loaded.run);
  const auto tokens = compare_tokenizers(loaded.run, context.run);
  const std::vector<ChoiceData> questions = load_questions(options, loaded.run);
  const std::optional<OnText> text = is_on_text ? std::optional(judge_text(options, loaded.run, forward, windows, logits ? &*logits : nullptr, context.run)) : std::nullopt;
  std::vector<std::vector<ChoiceQuality>> choices;  // by file, then by model
  for (const ChoiceData& data : questions) choices.push_back(judge_choices(loaded.run, data, forward, context.run));
  if (context.common.json) {
    fmt::print("{}", format_json(to_json(options, loaded.run, tokens, text ? &*text : nullptr, choices)));
    return tell_misses(options, text ? &*text : nullptr, choices);
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
  return tell_misses(options, text ? &*text : nullptr, choices);
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
  app.add_option("--seed", options->seed, "Picks the sample of the text that the oracle checks")->check(whole_number(0))->capture_default_str();
  app.add_option("--logits", options->logits, "Write the first window's logits of the first model to this .npy file (f32 [tokens, vocabulary])");
  add_ignored_config_fields(app, options->ignored_config_fields);
  return [options, &app](const CommandContext& context) { return run_evaluate(*options, app, context); };
}

}  // namespace llmc
