// llmc quantize: a recipe of one quantize step, from flags.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/calibration_flags.h"
#include "cli/compress_options.h"
#include "cli/gguf_flags.h"
#include "cli/heal_flags.h"
#include "cli/method.h"
#include "cli/number_checks.h"
#include "core/units.h"
#include "formats/scheme.h"

namespace llmc {
namespace {

struct QuantizeOptions {
  CompressOptions common;
  std::string preset;
  std::optional<int> bits;
  std::optional<int64_t> codebook;
  std::string mapping;
  std::string granularity;
  std::optional<int64_t> group_size;
  std::string method = "rtn";
  std::string observer;
  std::optional<double> percentile;
  std::vector<std::string> include, exclude, tensor_types;
  std::string embedding = "keep", head = "keep";
  std::string rotate = "none";
  std::string keep_outliers;
  std::optional<int64_t> keep_first, keep_last;
  std::optional<double> damping;
  std::string order;
  std::optional<int64_t> refinements, iterations, batch;
  std::optional<bool> drift_correction, activation_weighted;
  std::string channel_scales;
  std::optional<double> smoothing;
  std::string input_observer;
  std::optional<double> input_percentile;
  CalibrationFlags calibration;
  HealFlags heal;
  GgufFlags gguf;
};

/// The scheme that the flags mean: a preset, a codebook, or --bits with 8-bit channels or groups of 128 below, changed by the
/// others.
Scheme read_scheme(const QuantizeOptions& options) {
  if (int{options.bits.has_value()} + int{options.codebook.has_value()} + int{!options.preset.empty()} != 1) throw Error(ErrorKind::usage, "quantize: give one of --bits, --preset and --codebook");
  if (options.bits && (*options.bits < 2 || *options.bits > 8)) throw Error(ErrorKind::usage, fmt::format("--bits: expected 2 to 8, found {}", *options.bits));
  Scheme scheme = options.codebook ? make_codebook_scheme(*options.codebook) : parse_scheme(options.bits ? fmt::format("W{}A16", *options.bits) : options.preset);
  if (options.mapping == "symmetric" || options.mapping == "linear") scheme.mapping = options.mapping == "linear" ? Mapping::linear : Mapping::symmetric;
  else if (!options.mapping.empty()) throw Error(ErrorKind::usage, fmt::format("--scheme: expected symmetric or linear, found '{}'", options.mapping));
  if (options.granularity == "tensor" || options.granularity == "channel") {
    scheme.granularity = options.granularity == "tensor" ? Granularity::tensor : Granularity::channel;
    scheme.group_size = 0;
  } else if (options.granularity == "group") {
    if (scheme.granularity != Granularity::group) scheme.granularity = Granularity::group, scheme.group_size = 128;
  } else if (!options.granularity.empty()) {
    throw Error(ErrorKind::usage, fmt::format("--granularity: expected tensor, channel or group, found '{}'", options.granularity));
  }
  if (options.group_size) {
    if (!options.granularity.empty() && options.granularity != "group") throw Error(ErrorKind::usage, fmt::format("--group-size {} makes no sense with --granularity {}", *options.group_size, options.granularity));
    scheme.granularity = Granularity::group;
    scheme.group_size = *options.group_size;
  }
  check_scheme(scheme);
  return scheme;
}

Recipe make_quantize_recipe(const QuantizeOptions& options, const CLI::App& app) {
  nlohmann::json step = {{"pass", find_method("quantize", options.method)}, {"scheme", to_string(read_scheme(options))}, {"token_embedding", options.embedding}, {"output_head", options.head}, {"include", options.include}, {"exclude", options.exclude}};
  const auto set_if_given = [&](const char* name, const auto& value) {
    if (value) step[name] = *value;
  };
  if (!options.observer.empty()) step["observer"] = options.observer;
  if (!options.order.empty()) step["order"] = options.order;
  if (!options.input_observer.empty()) step["input_observer"] = options.input_observer;
  if (!options.channel_scales.empty()) step["channel_scales"] = options.channel_scales;
  set_if_given("smoothing", options.smoothing);
  set_if_given("input_percentile", options.input_percentile);
  set_if_given("activation_weighted", options.activation_weighted);
  set_if_given("percentile", options.percentile);
  if (!options.keep_outliers.empty()) step["keep_outliers"] = parse_share(options.keep_outliers, "--keep-outliers");
  set_if_given("keep_first", options.keep_first);
  set_if_given("keep_last", options.keep_last);
  set_if_given("damping", options.damping);
  set_if_given("refinements", options.refinements);
  set_if_given("iterations", options.iterations);
  set_if_given("batch", options.batch);
  set_if_given("drift_correction", options.drift_correction);
  for (const std::string& text : options.tensor_types) {
    const size_t at = text.rfind('=');
    if (at == std::string::npos || at == 0 || at + 1 == text.size()) throw Error(ErrorKind::usage, fmt::format("--tensor-type: expected REGEX=SCHEME such as 'down_proj=W8A16', found '{}'", text));
    step["tensor_types"].push_back({{"pattern", text.substr(0, at)}, {"scheme", text.substr(at + 1)}});
  }
  Recipe recipe;
  if (options.rotate != "none") recipe.steps.push_back(make_pass({{"pass", "transform.rotate"}, {"space", options.rotate}}, "--rotate")->options());
  recipe.steps.push_back(step);
  add_heal_step(recipe, options.heal);
  take_calibration(recipe, "--method " + options.method, options.calibration, app);
  complete_recipe(recipe, "quantize");
  return recipe;
}

/// How the blocks of --type are found: by a search at the end, or by a step that calibrates or reads an imatrix, which flags about
/// those ask for too.
std::string find_rounding(const QuantizeOptions& options, const CLI::App& app) {
  const std::vector<std::string> calibrating = given_calibration_flags(app);
  const bool has_imatrix = !options.gguf.imatrix.empty();
  if (has_imatrix && !calibrating.empty()) throw Error(ErrorKind::usage, fmt::format("{} makes no sense with --imatrix, which says what calibration would measure", fmt::join(calibrating, ", ")));
  const std::string rounding = !options.gguf.rounding.empty() ? options.gguf.rounding : has_imatrix ? "weighted" : calibrating.empty() ? "search" : "compensated";
  if (rounding != "search" && rounding != "weighted" && rounding != "compensated" && rounding != "refined") throw Error(ErrorKind::usage, fmt::format("--rounding: expected search, weighted, compensated or refined, found '{}'", rounding));
  if (has_imatrix && rounding == "search") throw Error(ErrorKind::usage, "--imatrix makes no sense with --rounding search, which weighs all errors alike; expected weighted");
  if (has_imatrix && rounding != "weighted") throw Error(ErrorKind::usage, "--imatrix makes no sense with --rounding " + rounding + ": the file says how large each input is, but making up for errors takes the products of all pairs; give --calibration");
  return rounding;
}

/// With --type weights are rounded to what the file's types say, and none of the flags that make other steps is left.
Recipe make_gguf_recipe(QuantizeOptions& options, const CLI::App& app) {
  const std::string rounding = find_rounding(options, app);
  const auto belongs = [&](const std::string& name, const std::string& group) {
    if (name == "--resume") return rounding == "compensated" || rounding == "refined";  // the others are done in one forward pass, which keeps no state
    if (group == "Calibration") return rounding != "search";
    if (name == "--heal-epochs" || name == "--heal-scope") return rounding == "refined";
    return (rounding == "compensated" || rounding == "refined") && (name == "--damping" || name == "--order" || name == "--refinements" || name == "--drift-correction");
  };
  for (const CLI::Option* option : app.get_options())
    for (const char* group : {"Scheme", "Method", "Calibration", "Healing"})
      if (option->get_group() == group && option->count() > 0 && !belongs(option->get_name(), group)) throw Error(ErrorKind::usage, fmt::format("{} makes no sense with --type and --rounding {}", option->get_name(), rounding));
  for (const char* name : {"--include", "--exclude", "--keep-first", "--keep-last", "--keep-outliers"})
    if (app.get_option(name)->count() > 0) throw Error(ErrorKind::usage, fmt::format("{} makes no sense with --type", name));
  for (const auto& [name, value] : {std::pair("--token-embedding-type", options.embedding), {"--output-tensor-type", options.head}})
    if (app.get_option(name)->count() > 0 && value == "keep") throw Error(ErrorKind::usage, fmt::format("{} keep makes no sense with --type, where a matrix has the type of the mix; give a type, such as F16{}", name, name == std::string_view("--output-tensor-type") ? ", or --leave-output-tensor" : ""));
  if (options.embedding != "keep") options.gguf.token_embedding_type = options.embedding;
  if (options.head != "keep") options.gguf.output_tensor_type = options.head;
  Recipe recipe{.format = Format::gguf, .gguf = read_gguf_flags(options.gguf, options.tensor_types)};
  if (rounding == "search") return recipe;
  nlohmann::json step = {{"pass", "quantize.gguf"}, {"types", to_json(recipe.gguf)}, {"rounding", rounding == "refined" ? "compensated" : rounding}};
  if (!options.gguf.imatrix.empty()) step["imatrix"] = options.gguf.imatrix;
  if (options.damping) step["damping"] = *options.damping;
  if (!options.order.empty()) step["order"] = options.order;
  if (options.refinements) step["refinements"] = *options.refinements;
  if (options.drift_correction) step["drift_correction"] = *options.drift_correction;
  recipe.steps.push_back(std::move(step));
  options.heal.heal = rounding == "refined";
  add_heal_step(recipe, options.heal);
  take_calibration(recipe, "--rounding " + rounding, options.calibration, app);
  complete_recipe(recipe, "quantize");
  return recipe;
}

void refuse_gguf_flags(const QuantizeOptions& options) {
  if (options.gguf.pure || options.gguf.leave_output_tensor || options.gguf.allow_fallback || !options.gguf.rounding.empty() || !options.gguf.imatrix.empty()) throw Error(ErrorKind::usage, "--pure, --leave-output-tensor, --allow-fallback, --rounding and --imatrix are about GGUF; give --type");
}

}  // namespace

CommandFunction add_quantize(CLI::App& app) {
  app.description("Rounds the weights to 2 to 8 bits, writes an artifact, re-opens it and judges it.");
  app.footer("Examples:\n  llmc quantize MODEL -o OUT --bits 8\n  llmc quantize MODEL -o OUT --preset W4A16-g32 --max-ppl-increase 2% --min-ratio 2\n  llmc quantize MODEL -o OUT --bits 3 --group-size 32 --method gptq --calibration text.txt --nsamples 64\n  llmc quantize MODEL -o OUT --bits 3 --group-size 64 --tensor-type 'down_proj=W8A16' --exclude 'layers\\.0\\.'\n  llmc quantize MODEL -o OUT.gguf --type Q4_K_M\n  llmc quantize MODEL -o OUT.gguf --type Q4_K_M --imatrix imatrix.gguf");
  auto options = std::make_shared<QuantizeOptions>();
  add_compress_options(app, options->common);
  add_format_option(app, options->common);
  app.add_option("--bits", options->bits, "Bits per weight, 2 to 8; 8 is per channel, less is in groups of 128 unless said otherwise")->group("Scheme");
  app.add_option("--preset", options->preset, "Instead of --bits: W8A16, W4A16, or with modifiers W4A16-g32-linear; FP8A16, NF4-g64, MXFP4A16, NVFP4A16, … (see llmc list)")->group("Scheme");
  app.add_option("--codebook", options->codebook, "Instead of --bits: 2 to 256 shared values (k-means), for the whole tensor unless --granularity or --group-size says otherwise")->group("Scheme");
  app.add_option("--scheme", options->mapping, "symmetric, or linear (with a zero point); default: symmetric")->group("Scheme");
  app.add_option("--granularity", options->granularity, "What shares a scale: tensor, channel (a row) or group")->group("Scheme");
  app.add_option("--group-size", options->group_size, "Weights of a row that share a scale")->check(whole_number(1))->group("Scheme");
  app.add_option("--observer", options->observer, "Range of the grid: minmax, percentile, mse (searched for the least squared error) or hqq (fitted by half-quadratic splitting); default: minmax for rtn, mse for methods that calibrate")->group("Scheme");
  app.add_option("--method", options->method, "How weights are rounded; `llmc list` describes the methods (quantize.…)")->capture_default_str()->group("Method");
  app.add_option("--damping", options->damping, "gptq, learned: share of the mean that is added to the Hessian's diagonal (default 0.01)")->group("Method");
  app.add_option("--order", options->order, "gptq, learned: order in which a row's weights are rounded: activation (the most active inputs first) or natural")->group("Method");
  app.add_option("--refinements", options->refinements, "gptq, learned: rounds of scale refit and coordinate descent afterwards (default 2)")->check(whole_number(0))->group("Method");
  app.add_option("--drift-correction", options->drift_correction, "gptq, learned: first correct weights for what earlier layers' errors did to their inputs: true (default) or false")->group("Method");
  app.add_option("--iterations", options->iterations, "learned: steps per block (default 100)")->check(whole_number(1))->group("Method");
  app.add_option("--batch", options->batch, "learned: calibration samples in a step (default 2)")->check(whole_number(1))->group("Method");
  app.add_option("--activation-weighted", options->activation_weighted, "rtn and awq with --observer mse or hqq: ranges are searched for the least error of the layer's output, not of its weights (needs calibration): true or false")->group("Method");
  app.add_option("--channel-scales", options->channel_scales, "Rescale channels between layers first, where that leaves the function as it is (needs calibration): awq (the least error after rounding), smoothquant (for quantized inputs) or none; default: awq for awq, else none")->group("Method");
  app.add_option("--smoothing", options->smoothing, "With --channel-scales smoothquant: share of the inputs' ranges that moves into the weights, 0 to 1 (default 0.8)")->group("Method");
  app.add_option("--input-observer", options->input_observer, "How the range of a static input (W8A8-static) is found: minmax, moving-average, percentile, mse (default) or entropy")->group("Method");
  app.add_option("--input-percentile", options->input_percentile, "With --input-observer percentile: share of values inside the range, in percent")->group("Method");
  add_heal_options(app, options->heal);
  add_calibration_flags(app, options->calibration);
  add_calibration_run_options(app, options->common);
  app.add_option("--keep-outliers", options->keep_outliers, "Share of each tensor's largest weights that stays in 16 bits beside the rest, such as 0.5%")->group("Tensors");
  app.add_option("--keep-first", options->keep_first, "Leave the first N blocks as they are")->check(whole_number(0))->group("Tensors");
  app.add_option("--keep-last", options->keep_last, "Leave the last N blocks as they are")->check(whole_number(0))->group("Tensors");
  app.add_option("--percentile", options->percentile, "With --observer percentile: share of weights inside the range, in percent (default 99.9)")->group("Scheme");
  app.add_option("--rotate", options->rotate, "Fold rotations into the weights first, which leaves the function as it is: values, residual, all, or none")->capture_default_str()->group("Scheme");
  app.add_option("--include", options->include, "Quantize only linear weights whose name this regular expression finds; may be repeated")->allow_extra_args(false)->group("Tensors");
  app.add_option("--exclude", options->exclude, "Leave linear weights whose name this regular expression finds; may be repeated")->allow_extra_args(false)->group("Tensors");
  app.add_option("--tensor-type", options->tensor_types, "REGEX=SCHEME: another scheme, or keep, for matching tensors; with --type REGEX=TYPE over GGUF's names; the first that matches decides; may be repeated")->allow_extra_args(false)->group("Tensors");
  app.add_option("--token-embedding-type", options->embedding, "Scheme of the token embedding (and of a head tied to it), or keep; with --type a type")->capture_default_str()->group("Tensors");
  app.add_option("--output-tensor-type", options->head, "Scheme of an output head of its own, or keep; with --type a type")->capture_default_str()->group("Tensors");
  add_gguf_mix_flags(app, options->gguf);
  return [options, &app](const CommandContext& context) {
    if (!options->gguf.type.empty()) return run_compress("quantize", options->common, make_gguf_recipe(*options, app), context);
    refuse_gguf_flags(*options);
    return run_compress("quantize", options->common, make_quantize_recipe(*options, app), context);
  };
}

}  // namespace llmc
