// llmc evaluate: quality of a model on text, alone or beside a reference.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "calib/npy.h"
#include "cli/compress_options.h"
#include "cli/report_table.h"
#include "core/output.h"

namespace llmc {
namespace {

struct EvaluateOptions {
  std::string model;
  std::string reference;
  std::string data;
  std::string logits;
  int64_t seqlen = 0;
  int64_t max_windows = 0;
  int64_t seed = 0;
  std::string convention = "all";
  std::string precision = "f32";
  std::vector<std::string> ignored_config_fields;
};

int run_evaluate(const EvaluateOptions& options, const CommandContext& context) {
  const std::set<std::string> ignored(options.ignored_config_fields.begin(), options.ignored_config_fields.end());
  const ForwardOptions forward{.precision = parse_precision(options.precision)};
  const WindowOptions window_options{.length = options.seqlen, .most = options.max_windows, .convention = parse_convention(options.convention)};
  const Model model = load_model(options.model, ignored, context.run);
  std::optional<Model> reference;
  if (!options.reference.empty()) reference = load_model(options.reference, ignored, context.run);
  const std::optional<std::filesystem::path> file = options.data.empty() ? std::nullopt : std::optional<std::filesystem::path>(options.data);
  const EvaluationText text = load_evaluation_text(model, file, window_options);

  const Quality quality = evaluate(model, reference ? &*reference : nullptr, text.windows, text.data.name, forward, context.run);
  const OracleAgreement oracle = check_against_oracle(model, text.windows, forward, static_cast<uint64_t>(options.seed));
  if (!options.logits.empty()) {
    const Matrix logits = compute_logits(model, text.windows.list.front().tokens, forward);
    write_file_atomically(options.logits, encode_npy_f32(logits.values(), {logits.rows(), logits.cols()}));
  }
  if (context.common.json) {
    nlohmann::json result = {{"model", options.model}, {"reference", reference ? nlohmann::json(options.reference) : nlohmann::json()}, {"precision", options.precision}, {"quality", to_json(quality)}, {"oracle", to_json(oracle)}};
    fmt::print("{}\n", result.dump(2));
  } else {
    fmt::print("{}", format_quality(quality, oracle));
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
  app.add_option("--seqlen", options->seqlen, "Tokens in a window; default: 512, or the model's context if less")->check(CLI::PositiveNumber);
  app.add_option("--max-windows", options->max_windows, "Windows to evaluate, spread over the text; 0: all")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--convention", options->convention, "all: every token but a window's first is scored; second-half: as llama.cpp")->capture_default_str();
  app.add_option("--precision", options->precision, "Matrix products: f32 or bf16")->capture_default_str();
  app.add_option("--seed", options->seed, "Picks the sample of the text that the oracle checks")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--logits", options->logits, "Write the first window's logits to this .npy file (f32 [tokens, vocabulary])");
  app.add_option("--ignore-config-field", options->ignored_config_fields, "A field of config.json that llmc does not know and that does not change the forward pass")->expected(1);
  return [options](const CommandContext& context) { return run_evaluate(*options, context); };
}

}  // namespace llmc
