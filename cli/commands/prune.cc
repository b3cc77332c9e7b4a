// llmc prune: a recipe of one prune step, from flags.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>

#include "cli/calibration_flags.h"
#include "cli/compress_options.h"
#include "cli/heal_flags.h"
#include "cli/method.h"
#include "core/suggest.h"
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
  HealFlags heal;
  std::string pattern = "unstructured";
  std::vector<std::string> include, exclude;
  std::vector<std::string> structured;
  std::string importance;
  std::optional<bool> compensate;
};

/// Throws Error(usage) naming the flags of the list that were given.
void refuse_flags(const CLI::App& app, std::span<const char* const> flags, const std::string& reason) {
  std::vector<std::string> given;
  for (const char* flag : flags)
    if (app.count(flag) > 0) given.emplace_back(flag);
  if (!given.empty()) throw Error(ErrorKind::usage, fmt::format("{} makes no sense {}", fmt::join(given, ", "), reason));
}

/// "ffn=30%"; each kind once.
void read_structured(const std::string& text, nlohmann::json& step, std::vector<std::string>& vocabulary) {
  const size_t at = text.find('=');
  const std::string kind = text.substr(0, at);
  const std::vector<std::string> kinds = {"ffn", "heads", "hidden", "layers", "vocab"};
  if (at == std::string::npos || std::ranges::find(kinds, kind) == kinds.end()) throw Error(ErrorKind::usage, fmt::format("--structured: expected KIND=AMOUNT with one of {}, such as ffn=30% or layers=2, found '{}'{}", fmt::join(kinds, ", "), text, did_you_mean(kind, kinds)));
  if (kind == "vocab") {
    if (at + 1 == text.size()) throw Error(ErrorKind::usage, "--structured vocab: expected a file of text, such as vocab=texts.txt");
    return vocabulary.push_back(text.substr(at + 1));
  }
  if (step.contains(kind)) throw Error(ErrorKind::usage, fmt::format("--structured: {} is given twice", kind));
  step[kind] = text.substr(at + 1);
}

Recipe make_structured_recipe(const PruneOptions& options, const CLI::App& app) {
  if (options.structured.empty()) throw Error(ErrorKind::usage, "--method structured: say what goes by --structured, such as --structured ffn=30%");
  if (options.method != "structured" && app.count("--method") > 0) throw Error(ErrorKind::usage, fmt::format("--method {} makes no sense with --structured; a recipe can have a step for each", options.method));
  constexpr std::array of_weights = {"--sparsity", "--pattern", "--scope", "--reconstruct", "--allocation", "--sensitivity", "--include", "--exclude"};
  if (app.count("--allocation") > 0) throw Error(ErrorKind::usage, "--allocation makes no sense with --structured: config.json has one number for the channels and one for the heads of all layers, and so have the classes that load it");
  refuse_flags(app, of_weights, "with --structured; a recipe can have a step for each");
  nlohmann::json step = {{"pass", "prune.structured"}};
  Recipe recipe;
  for (const std::string& text : options.structured) read_structured(text, step, recipe.vocabulary);
  if (step.size() == 1) {  // the vocabulary alone
    constexpr std::array of_steps = {"--importance", "--compensate", "--damping", "--heal", "--heal-epochs", "--heal-scope"};
    refuse_flags(app, of_steps, "with vocab alone");
    if (const auto given = given_calibration_flags(app); !given.empty()) throw Error(ErrorKind::usage, fmt::format("{} makes no sense with vocab alone, which needs no calibration", fmt::join(given, ", ")));
    return recipe;
  }
  if (!options.importance.empty()) step["importance"] = options.importance;
  if (options.compensate) step["compensate"] = *options.compensate;
  if (options.damping) step["damping"] = *options.damping;
  recipe.steps = {step};
  add_heal_step(recipe, options.heal);
  take_calibration(recipe, "--structured without compensation", options.calibration, app);
  complete_recipe(recipe, "prune");
  return recipe;
}

Recipe make_prune_recipe(const PruneOptions& options, const CLI::App& app) {
  if (!options.structured.empty() || options.method == "structured") return make_structured_recipe(options, app);
  constexpr std::array of_structures = {"--importance", "--compensate"};
  refuse_flags(app, of_structures, "without --structured");
  nlohmann::json step = {{"pass", find_method("prune", options.method)}, {"pattern", options.pattern}, {"include", options.include}, {"exclude", options.exclude}};
  if (!options.sparsity.empty()) step["sparsity"] = parse_share(options.sparsity, "--sparsity");
  if (!options.scope.empty()) step["scope"] = options.scope;
  if (options.reconstruct) step["reconstruct"] = true;
  if (!options.allocation.empty()) step["allocation"] = options.allocation;
  if (options.sensitivity) step["sensitivity"] = true;
  if (options.damping) step["damping"] = *options.damping;
  Recipe recipe{.steps = {step}};
  add_heal_step(recipe, options.heal);
  take_calibration(recipe, "--method " + options.method, options.calibration, app);
  complete_recipe(recipe, "prune");
  return recipe;
}

}  // namespace

CommandFunction add_prune(CLI::App& app) {
  app.description("Removes what matters least: single weights, which become zero and are not stored, or whole structures.");
  app.footer("Examples:\n  llmc prune MODEL -o OUT --sparsity 0.5\n  llmc prune MODEL -o OUT --sparsity 30% --scope global --max-kl 0.05\n  llmc prune MODEL -o OUT --pattern 2:4 --format hf\n  llmc prune MODEL -o OUT --method sparsegpt --sparsity 0.5 --reconstruct --calibration text.txt\n  llmc prune MODEL -o OUT --structured ffn=30% --structured layers=2");
  auto options = std::make_shared<PruneOptions>();
  add_compress_options(app, options->common);
  add_format_option(app, options->common);
  app.add_option("--sparsity", options->sparsity, "Share of the weights that become zero, such as 0.5 or 50%")->group("Pruning");
  app.add_option("--pattern", options->pattern, "unstructured; N:M such as 2:4: at most N of M neighbours along a row stay; block:RxC such as block:4x8: weights of a block go or stay together")->capture_default_str()->group("Pruning");
  app.add_option("--method", options->method, "What a weight is worth: magnitude, wanda (times the size of its input), fisher (times the size of the loss's gradient) or sparsegpt (the others make up for what goes); all but magnitude need calibration text")->capture_default_str()->group("Pruning");
  app.add_flag("--reconstruct", options->reconstruct, "Then fit what is left of each row to the output of the layer (needs calibration)")->group("Pruning");
  app.add_option("--allocation", options->allocation, "How zeros are spread over the weights: uniform (default), owl (less of blocks with outliers) or measured (less of blocks whose zeros cost the predictions more); the last two need calibration")->group("Pruning");
  app.add_flag("--sensitivity", options->sensitivity, "First measure the output error of every layer at 10 to 90 % zeros (needs calibration)")->group("Pruning");
  app.add_option("--structured", options->structured, "Remove whole structures, so that the model becomes a smaller dense one: ffn=30% or ffn=256 (feed-forward channels), heads=25% (key/value groups with their query heads), hidden=12.5% (dimensions of the residual stream), layers=2 or layers=3,5 (which), vocab=FILE (tokens that these texts do not use); may be repeated")->allow_extra_args(false)->group("Structures");
  app.add_option("--importance", options->importance, "By what channels and heads are ranked: loss (default: what is lost once the others made up for it), activation, magnitude or taylor (the loss's gradients); layers go by block-influence")->group("Structures");
  app.add_option("--compensate", options->compensate, "Whether layers are fitted by least squares to make up for what goes: true (default) or false")->group("Structures");
  app.add_option("--damping", options->damping, "sparsegpt, --reconstruct, --structured: share of the mean that is added to the Hessian's diagonal (default 0.01)")->group("Pruning");
  add_heal_options(app, options->heal);
  add_calibration_flags(app, options->calibration);
  add_calibration_run_options(app, options->common);
  app.add_option("--scope", options->scope, "What is ranked against each other: tensor, row, or global over all (magnitude and fisher only); default: tensor, for wanda and fisher row")->group("Pruning");
  app.add_option("--include", options->include, "Prune only linear weights whose name this regular expression finds; may be repeated")->allow_extra_args(false)->group("Tensors");
  app.add_option("--exclude", options->exclude, "Leave linear weights whose name this regular expression finds; may be repeated")->allow_extra_args(false)->group("Tensors");
  return [options, &app](const CommandContext& context) { return run_compress("prune", options->common, make_prune_recipe(*options, app), context); };
}

}  // namespace llmc
