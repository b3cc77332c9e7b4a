// llmc imatrix: how large the inputs of a model's linear layers are, in a file that llama-quantize reads too.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "calib/calibration_data.h"
#include "calib/generated_samples.h"
#include "calib/imatrix_collector.h"
#include "calib/model_tokens.h"
#include "cli/calibration_flags.h"
#include "cli/command.h"
#include "cli/number_checks.h"
#include "cli/shared_options.h"
#include "core/error.h"
#include "core/file_status.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/staged_file.h"
#include "formats/imatrix.h"
#include "model/ignored_fields.h"
#include "passes/compress.h"

namespace llmc {
namespace {

struct ImatrixOptions {
  std::string model;
  std::string output;
  CalibrationFlags calibration;
  int64_t seed = 0;
  bool force = false;
  std::vector<std::string> ignored_config_fields;
};

CalibrationData load_samples(const ImatrixOptions& options, const CalibrationOptions& wanted, const Model& model, const RunContext& context) {
  const std::optional<Tokenizer> tokenizer = needs_tokenizer(wanted) ? load_tokenizer(model) : std::nullopt;
  CalibrationData data = load_calibration({.options = wanted, .tokenizer = tokenizer ? &*tokenizer : nullptr, .vocabulary = model.config().vocabulary, .context = model.config().longest_text(), .seed = static_cast<uint64_t>(options.seed)}, {}).calibration;
  for (const std::string& warning : data.warnings) context.sink.warn(warning);
  if (wanted.generated > 0) add_generated_samples(data, model, wanted, static_cast<uint64_t>(options.seed), context);
  return data;
}

/// --force replaces an imatrix, and no model.
void refuse_other_kind(const std::filesystem::path& output) {
  if (!std::filesystem::exists(get_status(output, ErrorKind::output))) return;
  const MappedFile file(output);
  if (file.bytes().empty()) return;
  try {
    parse_imatrix(file.bytes(), output.string());
  } catch (const Error& error) {
    throw Error(ErrorKind::output, fmt::format("{}; --force replaces only an earlier imatrix", error.what()));
  }
}

int run_imatrix(const ImatrixOptions& options, const CommandContext& context) {
  const CalibrationOptions wanted = read_calibration_flags(options.calibration);
  if (std::filesystem::path(options.output).extension() != ".gguf") throw Error(ErrorKind::usage, fmt::format("output {}: expected a name that ends in .gguf", options.output));
  refuse_own_output(options.model, options.output);
  StagedFile staged(options.output, options.force ? Overwrite::replace : Overwrite::refuse);
  if (options.force) refuse_other_kind(options.output);
  const Model model = load_model(options.model, as_set(options.ignored_config_fields), context.run);
  warn_of_idle_fields({&model}, as_set(options.ignored_config_fields), context.run);
  refuse_experts(model);
  if (!model.architecture().gguf.name) throw Error(ErrorKind::usage, fmt::format("{}: llama.cpp has no architecture for {}", options.model, model.architecture().causal_class));
  const CalibrationData data = load_samples(options, wanted, model, context.run);
  Imatrix imatrix = collect_imatrix(model, data.samples, {.forward = {.precision = wanted.precision}, .activations = wanted.activations}, context.run);
  for (const CalibrationSource& source : data.sources) imatrix.datasets.push_back(source.name);
  if (data.generated_samples > 0) imatrix.datasets.push_back(fmt::format("{} samples by the model", data.generated_samples));
  imatrix.chunk_size = data.seqlen;
  imatrix.chunk_count = std::max<int64_t>(1, data.tokens() / data.seqlen);
  write_imatrix(staged.path(), imatrix);
  const uint64_t bytes = std::filesystem::file_size(staged.path());
  context.run.check_stop();
  staged.commit();
  if (context.common.json) fmt::print("{}", format_json({{"source", {{"path", options.model}}}, {"imatrix", {{"path", options.output}, {"bytes", bytes}, {"entries", imatrix.entries.size()}}}, {"calibration", to_json(data)}}));
  else fmt::print("{}: {} entries from {} tokens in {} samples\n", options.output, imatrix.entries.size(), data.tokens(), data.samples.size());
  return exit_done;
}

}  // namespace

CommandFunction add_imatrix(CLI::App& app) {
  app.description("Measures how large the inputs of each linear layer are on calibration text, column by column, for quantize --imatrix and llama-quantize --imatrix.");
  app.footer("Examples:\n  llmc imatrix MODEL -o imatrix.gguf --calibration text.txt\n  llmc quantize MODEL -o OUT.gguf --type Q4_K_M --imatrix imatrix.gguf");
  auto options = std::make_shared<ImatrixOptions>();
  app.add_option("MODEL", options->model, "Hugging Face checkpoint directory, artifact directory, or a GGUF file")->required();
  app.add_option("-o,--output", options->output, "File to write, which ends in .gguf; it appears complete or not at all")->required();
  app.add_flag("--force", options->force, "Replace an earlier imatrix at OUTPUT");
  app.add_option("--seed", options->seed, "Picks the samples")->check(whole_number(0))->capture_default_str()->group("Calibration");
  add_calibration_flags(app, options->calibration);
  add_ignored_config_fields(app, options->ignored_config_fields);
  return [options](const CommandContext& context) { return run_imatrix(*options, context); };
}

}  // namespace llmc
