// llmc export: an ordinary checkpoint from any artifact.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/shared_options.h"
#include "core/json.h"
#include "core/output.h"
#include "core/units.h"
#include "model/quantized_linear.h"
#include "passes/artifact.h"
#include "passes/compress.h"

namespace llmc {
namespace {

struct ExportOptions {
  std::string model;
  std::string output;
  bool dense = false;
  bool force = false;
  std::vector<std::string> ignored_config_fields;
};

int run_export(const ExportOptions& options, const CommandContext& context) {
  refuse_own_output(options.model, options.output);
  StagedDirectory staged(options.output, options.force ? Overwrite::replace : Overwrite::refuse);
  const Model model = load_model(options.model, as_set(options.ignored_config_fields), context.run);
  if (find_execution(model) != Execution::floats) context.run.sink.warn(fmt::format("{}: rounds the inputs of its layers; an ordinary checkpoint cannot say that and runs them as they are", options.model));
  const Provenance provenance{.command = "export", .source_hashes = hash_sources(model.checkpoint(), context.run)};
  write_artifact(staged.path(), Container::dense, model, provenance, context.run);
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
  app.footer("Example:\n  llmc export OUT --dense -o DENSE");
  auto options = std::make_shared<ExportOptions>();
  app.add_option("MODEL", options->model, "Artifact directory")->required();
  app.add_option("-o,--output", options->output, "Directory to write; it appears complete or not at all")->required();
  app.add_flag("--dense", options->dense, "Write dense float tensors")->required();
  app.add_flag("--force", options->force, "Replace an earlier artifact at OUTPUT");
  add_ignored_config_fields(app, options->ignored_config_fields);
  return [options](const CommandContext& context) { return run_export(*options, context); };
}

}  // namespace llmc
