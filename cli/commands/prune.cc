// llmc prune: a recipe of one prune step, from flags.
#include <fmt/format.h>

#include "cli/compress_options.h"
#include "core/units.h"

namespace llmc {
namespace {

struct PruneOptions {
  CompressOptions common;
  std::string sparsity;
  std::string scope;
  std::string pattern = "unstructured";
  std::vector<std::string> include, exclude;
};

Recipe make_recipe(const PruneOptions& options) {
  nlohmann::json step = {{"pass", "prune.magnitude"}, {"pattern", options.pattern}, {"include", options.include}, {"exclude", options.exclude}};
  if (!options.sparsity.empty()) step["sparsity"] = parse_share(options.sparsity, "--sparsity");
  if (!options.scope.empty()) step["scope"] = options.scope;
  return {.steps = {make_pass(step, "prune")->options()}};
}

}  // namespace

CommandFunction add_prune(CLI::App& app) {
  app.description("Sets the weights of least magnitude to zero and stores only the others.");
  app.footer("Examples:\n  llmc prune MODEL -o OUT --sparsity 0.5\n  llmc prune MODEL -o OUT --sparsity 30% --scope global --max-kl 0.05\n  llmc prune MODEL -o OUT --pattern 2:4 --format hf");
  auto options = std::make_shared<PruneOptions>();
  add_compress_options(app, options->common);
  app.add_option("--sparsity", options->sparsity, "Share of the weights that become zero, such as 0.5 or 50%")->group("Pruning");
  app.add_option("--pattern", options->pattern, "unstructured; N:M such as 2:4: at most N of M neighbours along a row stay; block:RxC such as block:4x8: weights of a block go or stay together")->capture_default_str()->group("Pruning");
  app.add_option("--scope", options->scope, "What is ranked against each other: tensor (default), row, or global over all")->group("Pruning");
  app.add_option("--include", options->include, "Prune only linear weights whose name this regular expression finds; may be repeated")->allow_extra_args(false)->group("Tensors");
  app.add_option("--exclude", options->exclude, "Leave linear weights whose name this regular expression finds; may be repeated")->allow_extra_args(false)->group("Tensors");
  return [options](const CommandContext& context) { return run_compress("prune", options->common, make_recipe(*options), context); };
}

}  // namespace llmc
