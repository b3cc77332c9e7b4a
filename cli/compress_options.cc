#include "cli/compress_options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>

#include "cli/report_table.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "core/json.h"
#include "core/result_file.h"
#include "core/units.h"
#include "plan/dry_run.h"

namespace llmc {
namespace {

/// A number written without a unit, such as a KL divergence or a ratio.
double parse_number(const std::string& text, const std::string& what) {
  size_t used = 0;
  double value = NAN;
  try {
    value = std::stod(text, &used);
  } catch (const std::exception&) {
  }
  if (used != text.size() || !std::isfinite(value) || value < 0) throw Error(ErrorKind::usage, fmt::format("{}: expected a number, found '{}'", what, text));
  return value;
}

std::vector<GateLimit> read_gates(const CompressOptions& options) {
  std::vector<GateLimit> gates;
  const auto add = [&](const std::string& text, const char* flag, const char* name, GateDirection direction, auto parse) {
    if (!text.empty()) gates.push_back({name, direction, static_cast<double>(parse(text, flag))});
  };
  add(options.max_ppl_increase, "--max-ppl-increase", "max_ppl_increase", GateDirection::at_most, parse_share);
  add(options.max_kl, "--max-kl", "max_kl", GateDirection::at_most, parse_number);
  add(options.min_top1_agreement, "--min-top1-agreement", "min_top1_agreement", GateDirection::at_least, parse_share);
  add(options.max_size, "--max-size", "max_size", GateDirection::at_most, parse_size);
  add(options.min_ratio, "--min-ratio", "min_ratio", GateDirection::at_least, parse_number);
  return gates;
}

/// Checked against what the run reads and writes.
std::optional<ResultFile> find_junit_file(const CompressOptions& options, const CompressRequest& request) {
  if (options.junit.empty()) return std::nullopt;
  std::vector<std::filesystem::path> others = {request.model, request.output};
  if (request.evaluation_data) others.push_back(*request.evaluation_data);
  if (request.recipe.calibration) others.insert(others.end(), request.recipe.calibration->files.begin(), request.recipe.calibration->files.end());
  others.insert(others.end(), request.recipe.vocabulary.begin(), request.recipe.vocabulary.end());
  return ResultFile({.flag = "--junit", .begins = "<?xml", .called = "XML file"}, options.junit, others);
}

int print_dry_run(const CompressRequest& request, const CommandContext& context) {
  const DryRun plan = plan_run(request, context.run);
  if (context.common.json) {
    fmt::print("{}", format_json(to_json(plan)));
    return exit_done;
  }
  Table table({{"tensor", Align::left}, {"shape", Align::left}, {"treatment", Align::left}, {"bits/weight", Align::right}});
  for (const PlannedTensor& tensor : plan.tensors) table.add({tensor.name, to_string(tensor.shape), tensor.treatment, fmt::format("{:.2f}", tensor.bits)});
  fmt::print("{}\nweights      {} → about {} ({:.2f} times smaller)\npeak memory  about {}\nproducts     {:.1f} G multiply-adds to evaluate\n", table.text(), format_size(plan.source_bytes), format_size(plan.estimated_bytes), static_cast<double>(plan.source_bytes) / static_cast<double>(plan.estimated_bytes), format_size(plan.estimated_memory), plan.evaluation_products / 1e9);
  return exit_done;
}

}  // namespace

void add_compress_options(CLI::App& app, CompressOptions& options) {
  app.add_option("MODEL", options.model, "Hugging Face checkpoint directory, or a GGUF file")->required();
  app.add_option("-o,--output", options.output, "Directory, or file that ends in .gguf, to write; it appears complete or not at all")->required();
  app.add_flag("--force", options.force, "Replace an earlier artifact at OUTPUT");
  app.add_flag("--dry-run", options.dry_run, "Print what would be done to each weight, and stop");
  app.add_flag("--untie", options.untie_head, "Give an output head that is tied to the embedding a matrix of its own first")->group("Tensors");
  app.add_flag("--allow-requantize", options.allow_requantize, "Round the weights of a quantized artifact or GGUF file again, from what they mean")->group("Tensors");
  app.add_option("--seed", options.seed, "Picks whatever the command draws: calibration samples, texts that the model writes, the order of training, random weights, and the sample of the text that the oracle checks")->group("Judging");
  app.add_option("--eval-data", options.evaluation_data, "Held-out text, or token ids (.npy, .u16, .u32), to judge on; default: the bundled text")->group("Judging");
  add_evaluation_flags(app, options.evaluation, "--eval-seqlen");
  add_ignored_config_fields(app, options.ignored_config_fields);
  app.add_option("--max-ppl-increase", options.max_ppl_increase, "Gate: most the perplexity may grow, such as 1%")->group("Gates");
  app.add_option("--max-kl", options.max_kl, "Gate: highest mean KL divergence to the original, in nats")->group("Gates");
  app.add_option("--min-top1-agreement", options.min_top1_agreement, "Gate: least share of positions with the original's first choice, such as 0.95")->group("Gates");
  app.add_option("--max-size", options.max_size, "Gate: most bytes of all weight files together, such as 40MB")->group("Gates");
  app.add_option("--min-ratio", options.min_ratio, "Gate: least ratio of the weight files before and after, such as 3")->group("Gates");
  app.add_option("--junit", options.junit, "Write the gates as JUnit XML to this file")->group("Output");
}

void add_format_option(CLI::App& app, CompressOptions& options) {
  app.add_option("--format", options.format, "auto: compressed-tensors, or llmc's packed container where that cannot say it; hf: what transformers loads, or an error; packed: llmc's container; gguf: a file for llama.cpp, the default for an OUTPUT that ends in .gguf")->group("Output");
  add_shard_size(app, options.shard_size);
}

void add_calibration_run_options(CLI::App& app, CompressOptions& options) {
  app.add_option("--max-memory", options.max_memory, "Calibration activations beyond this, such as 2GB, go to a file beside the output")->group("Calibration");
  app.add_option("--resume", options.resume, "Keep the state of the calibration in this directory; after a kill the same command goes on from there, to the same bytes")->group("Calibration");
}

int run_compress(const std::string& command, const CompressOptions& options, Recipe recipe, const CommandContext& context) {
  if (options.format) {
    const Format format = parse_format(*options.format);
    if (recipe.format == Format::gguf && format != Format::gguf && format != Format::automatic) throw Error(ErrorKind::usage, fmt::format("--format {}: the types of a GGUF file are given; expected gguf", *options.format));
    if (recipe.format != Format::gguf) recipe.format = format;
  }
  if (recipe.format == Format::automatic && std::filesystem::path(options.output).extension() == ".gguf") recipe.format = Format::gguf;
  if (!options.shard_size.empty()) recipe.shard_bytes = read_shard_size(options.shard_size);
  if (options.seed && *options.seed < 0) throw Error(ErrorKind::usage, fmt::format("--seed: expected a number from 0, found {}", *options.seed));
  if (options.seed) recipe.seed = static_cast<uint64_t>(*options.seed);
  if (options.untie_head) recipe.untie_head = true;
  CompressRequest request{.command = command,
                          .model = options.model,
                          .output = options.output,
                          .recipe = std::move(recipe),
                          .windows = read_window_options(options.evaluation),
                          .forward = read_forward_options(options.evaluation),
                          .gates = read_gates(options),
                          .ignored_config_fields = as_set(options.ignored_config_fields),
                          .overwrite = options.force ? Overwrite::replace : Overwrite::refuse,
                          .requantize = options.allow_requantize ? Requantize::allow : Requantize::refuse,
                          .max_memory = options.max_memory.empty() ? 0 : parse_size(options.max_memory, "--max-memory")};
  if (!options.resume.empty()) request.resume = options.resume;
  if ((request.resume || request.max_memory > 0) && !request.recipe.calibration) throw Error(ErrorKind::usage, "--resume and --max-memory are about calibration, which no step of this run needs");
  if (!options.evaluation_data.empty()) request.evaluation_data = options.evaluation_data;
  if (options.dry_run) return print_dry_run(request, context);
  const std::optional<ResultFile> junit = find_junit_file(options, request);

  const Report report = compress(request, context.run);
  if (context.common.json) fmt::print("{}", format_json(to_json(report)));
  else fmt::print("{}", format_report(report, use_colour(STDOUT_FILENO)));
  if (junit) junit->write(to_junit(report));
  if (report.passed()) return exit_done;
  std::fflush(stdout);
  write_message(fmt::format("llmc: {}\n", describe_misses(report.gates)));
  return exit_gate_missed;
}

}  // namespace llmc
