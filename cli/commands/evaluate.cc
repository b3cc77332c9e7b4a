// llmc evaluate: quality of a model on text, alone or beside a reference.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "calib/npy.h"
#include "cli/command.h"
#include "cli/report_table.h"
#include "cli/shared_options.h"
#include "core/json.h"
#include "core/output.h"
#include "passes/compress.h"

namespace llmc {
namespace {

struct EvaluateOptions {
  std::string model;
  std::string reference;
  std::string data;
  std::string logits;
  EvaluationFlags evaluation;
  int64_t seed = 0;
  std::vector<std::string> ignored_config_fields;
};

int run_evaluate(const EvaluateOptions& options, const CommandContext& context) {
  const std::set<std::string> ignored = as_set(options.ignored_config_fields);
  const ForwardOptions forward = read_forward_options(options.evaluation);
  const WindowOptions window_options = read_window_options(options.evaluation);
  const Model model = load_model(options.model, ignored, context.run);
  std::optional<Model> reference;
  if (!options.reference.empty()) reference = load_model(options.reference, ignored, context.run);
  const std::optional<std::filesystem::path> file = options.data.empty() ? std::nullopt : std::optional<std::filesystem::path>(options.data);
  const RunText text = load_run_text(model, {.evaluation_data = file, .windows = window_options});

  const Quality quality = evaluate(model, reference ? &*reference : nullptr, text.windows, text.data.name, forward, context.run);
  const OracleAgreement oracle = check_against_oracle(model, text.windows, forward, static_cast<uint64_t>(options.seed));
  const ProductSpeeds products = measure_products(model, forward, context.run);
  if (!options.logits.empty()) {
    const Matrix logits = compute_logits(model, text.windows.list.front().tokens, forward);
    write_file_atomically(options.logits, encode_npy(DType::f32, std::as_bytes(logits.values()), {logits.rows(), logits.cols()}));
  }
  if (context.common.json) {
    nlohmann::json result = {{"model", options.model}, {"reference", reference ? nlohmann::json(options.reference) : nlohmann::json()}, {"precision", options.evaluation.precision}, {"quality", to_json(quality)}, {"oracle", to_json(oracle)}, {"sparse_products", to_json(products)}};
    fmt::print("{}", format_json(result));
  } else {
    fmt::print("{}{}", format_quality(quality, oracle), format_products(products));
  }
  return exit_done;
}

}  // namespace

CommandFunction add_evaluate(CLI::App& app) {
  app.description("Measures a model on text: perplexity, accuracy, and beside a reference KL divergence and agreement.");
  app.footer("Examples:\n  llmc evaluate MODEL --data held_out.txt\n  llmc evaluate OUT --reference MODEL --data ids.npy --json\n  llmc evaluate MODEL --data wiki.test.raw --convention second-half");
  auto options = std::make_shared<EvaluateOptions>();
  app.add_option("MODEL", options->model, "Checkpoint or artifact directory")->required();
  app.add_option("--reference", options->reference, "Model to compare with, run side by side");
  app.add_option("--data", options->data, "Text, or token ids (.npy, .u16, .u32); default: the bundled text");
  add_evaluation_flags(app, options->evaluation, "--seqlen");
  app.add_option("--seed", options->seed, "Picks the sample of the text that the oracle checks")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--logits", options->logits, "Write the first window's logits to this .npy file (f32 [tokens, vocabulary])");
  add_ignored_config_fields(app, options->ignored_config_fields);
  return [options](const CommandContext& context) { return run_evaluate(*options, context); };
}

}  // namespace llmc
