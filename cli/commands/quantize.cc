// llmc quantize: a recipe of one quantize step, from flags.
#include <fmt/format.h>

#include "cli/compress_options.h"
#include "formats/scheme.h"

namespace llmc {
namespace {

struct QuantizeOptions {
  CompressOptions common;
  std::string preset;
  std::optional<int> bits;
  std::string mapping;
  std::string granularity;
  std::optional<int64_t> group_size;
  std::string observer = "minmax";
  std::optional<double> percentile;
  std::vector<std::string> include, exclude, tensor_types;
  std::string embedding = "keep", head = "keep";
  std::string rotate = "none";
};

/// The scheme that the flags mean: a preset, or --bits with 8-bit channels or groups of 128 below, changed by the others.
Scheme read_scheme(const QuantizeOptions& options) {
  if (options.preset.empty() == !options.bits) throw Error(ErrorKind::usage, "quantize: give either --bits or --preset");
  if (options.bits && (*options.bits < 2 || *options.bits > 8)) throw Error(ErrorKind::usage, fmt::format("--bits: expected 2 to 8, found {}", *options.bits));
  Scheme scheme = parse_scheme(options.bits ? fmt::format("W{}A16", *options.bits) : options.preset);
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

Recipe make_recipe(const QuantizeOptions& options) {
  nlohmann::json step = {{"pass", "quantize.rtn"}, {"scheme", to_string(read_scheme(options))}, {"observer", options.observer}, {"token_embedding", options.embedding}, {"output_head", options.head}, {"include", options.include}, {"exclude", options.exclude}};
  if (options.percentile) step["percentile"] = *options.percentile;
  for (const std::string& text : options.tensor_types) {
    const size_t at = text.rfind('=');
    if (at == std::string::npos || at == 0 || at + 1 == text.size()) throw Error(ErrorKind::usage, fmt::format("--tensor-type: expected REGEX=SCHEME such as 'down_proj=W8A16', found '{}'", text));
    step["tensor_types"].push_back({{"pattern", text.substr(0, at)}, {"scheme", text.substr(at + 1)}});
  }
  Recipe recipe;
  if (options.rotate != "none") recipe.steps.push_back(make_pass({{"pass", "transform.rotate"}, {"space", options.rotate}}, "--rotate")->options());
  recipe.steps.push_back(make_pass(step, "quantize")->options());
  return recipe;
}

}  // namespace

CommandFunction add_quantize(CLI::App& app) {
  app.description("Rounds the weights to 2 to 8 bits, writes an artifact, re-opens it and judges it.");
  app.footer("Examples:\n  llmc quantize MODEL -o OUT --bits 8\n  llmc quantize MODEL -o OUT --preset W4A16-g32 --max-ppl-increase 2% --min-ratio 2\n  llmc quantize MODEL -o OUT --bits 3 --group-size 64 --tensor-type 'down_proj=W8A16' --exclude 'layers\\.0\\.'");
  auto options = std::make_shared<QuantizeOptions>();
  add_compress_options(app, options->common);
  app.add_option("--bits", options->bits, "Bits per weight, 2 to 8; 8 is per channel, less is in groups of 128 unless said otherwise")->group("Scheme");
  app.add_option("--preset", options->preset, "Instead of --bits: W8A16, W4A16, or with modifiers W4A16-g32-linear")->group("Scheme");
  app.add_option("--scheme", options->mapping, "symmetric, or linear (with a zero point); default: symmetric")->group("Scheme");
  app.add_option("--granularity", options->granularity, "What shares a scale: tensor, channel (a row) or group")->group("Scheme");
  app.add_option("--group-size", options->group_size, "Weights of a row that share a scale")->check(CLI::PositiveNumber)->group("Scheme");
  app.add_option("--observer", options->observer, "Range of the grid: minmax, percentile, mse (searched for the least squared error) or hqq (fitted by half-quadratic splitting)")->capture_default_str()->group("Scheme");
  app.add_option("--percentile", options->percentile, "With --observer percentile: share of weights inside the range, in percent (default 99.9)")->group("Scheme");
  app.add_option("--rotate", options->rotate, "Fold rotations into the weights first, which leaves the function as it is: values, residual, all, or none")->capture_default_str()->group("Scheme");
  app.add_option("--include", options->include, "Quantize only linear weights whose name this regular expression finds; may be repeated")->allow_extra_args(false)->group("Tensors");
  app.add_option("--exclude", options->exclude, "Leave linear weights whose name this regular expression finds; may be repeated")->allow_extra_args(false)->group("Tensors");
  app.add_option("--tensor-type", options->tensor_types, "REGEX=SCHEME: another scheme, or keep, for matching tensors; the first that matches decides; may be repeated")->allow_extra_args(false)->group("Tensors");
  app.add_option("--token-embedding-type", options->embedding, "Scheme of the token embedding (and of a head tied to it), or keep")->capture_default_str()->group("Tensors");
  app.add_option("--output-tensor-type", options->head, "Scheme of an output head of its own, or keep")->capture_default_str()->group("Tensors");
  return [options](const CommandContext& context) { return run_compress("quantize", options->common, make_recipe(*options), context); };
}

}  // namespace llmc
