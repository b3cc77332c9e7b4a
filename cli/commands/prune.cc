// llmc prune: a recipe of one prune step, from flags.
#include <fmt/format.h>

#include "cli/calibration_flags.h"
#include "cli/compress_options.h"
#include "cli/method.h"
#include "core/units.h"

namespace llmc {
namespace {

struct PruneOptions {
  CompressOptions common;
  std::string sparsity;
  std::string scope;
  std::string method = "magnitude";
  bool reconstruct = false;
  std::string allocation;
  bool sensitivity = false;
  std::optional<double> damping;
  CalibrationFlags calibration;
  std::string pattern = "unstructured";
  std::vector<std::string> include, exclude;
};

Recipe make_recipe(const PruneOptions& options, const CLI::App& app) {
  nlohmann::json step = {{"pass", find_method("prune", options.method)}, {"pattern", options.pattern}, {"include", options.include}, {"exclude", options.exclude}};
  if (!options.sparsity.empty()) step["sparsity"] = parse_share(options.sparsity, "--sparsity");
  if (!options.scope.empty()) step["scope"] = options.scope;
  if (options.reconstruct) step["reconstruct"] = true;
  if (!options.allocation.empty()) step["allocation"] = options.allocation;
  if (options.sensitivity) step["sensitivity"] = true;
  if (options.damping) step["damping"] = *options.damping;
  Recipe recipe{.steps = {step}};
  take_calibration(recipe, options.method, options.calibration, app);
  complete_recipe(recipe, "prune");
  return recipe;
}

}  // namespace

CommandFunction add_prune(CLI::App& app) {
  app.description("Sets the weights to zero that matter least and stores only the others.");
  app.footer("Examples:\n  llmc prune MODEL -o OUT --sparsity 0.5\n  llmc prune MODEL -o OUT --sparsity 30% --scope global --max-kl 0.05\n  llmc prune MODEL -o OUT --pattern 2:4 --format hf\n  llmc prune MODEL -o OUT --method sparsegpt --sparsity 0.5 --reconstruct --calibration text.txt");
  auto options = std::make_shared<PruneOptions>();
  add_compress_options(app, options->common);
  app.add_option("--sparsity", options->sparsity, "Share of the weights that become zero, such as 0.5 or 50%")->group("Pruning");
  app.add_option("--pattern", options->pattern, "unstructured; N:M such as 2:4: at most N of M neighbours along a row stay; block:RxC such as block:4x8: weights of a block go or stay together")->capture_default_str()->group("Pruning");
  app.add_option("--method", options->method, "What a weight is worth: magnitude, wanda (times the size of its input) or sparsegpt (the others make up for what goes); the last two need calibration text")->capture_default_str()->group("Pruning");
  app.add_flag("--reconstruct", options->reconstruct, "Then fit what is left of each row to the output of the layer (needs calibration)")->group("Pruning");
  app.add_option("--allocation", options->allocation, "How zeros are spread over the weights: uniform (default) or owl (less of blocks with outliers; needs calibration)")->group("Pruning");
  app.add_flag("--sensitivity", options->sensitivity, "First measure the output error of every layer at 10 to 90 % zeros (needs calibration)")->group("Pruning");
  app.add_option("--damping", options->damping, "sparsegpt, --reconstruct: share of the mean that is added to the Hessian's diagonal (default 0.01)")->group("Pruning");
  add_calibration_flags(app, options->calibration);
  add_calibration_run_options(app, options->common);
  app.add_option("--scope", options->scope, "What is ranked against each other: tensor, row, or global over all (magnitude only); default: tensor, for wanda row")->group("Pruning");
  app.add_option("--include", options->include, "Prune only linear weights whose name this regular expression finds; may be repeated")->allow_extra_args(false)->group("Tensors");
  app.add_option("--exclude", options->exclude, "Leave linear weights whose name this regular expression finds; may be repeated")->allow_extra_args(false)->group("Tensors");
  return [options, &app](const CommandContext& context) { return run_compress("prune", options->common, make_recipe(*options, app), context); };
}

}  // namespace llmc
