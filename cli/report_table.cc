#include "cli/report_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <cmath>
#include <utility>

#include "cli/table.h"
#include "core/units.h"
#include "verify/sensitivity.h"

namespace llmc {
namespace {

/// What a role's grids clip, and the range of their scales; empty where there are none.
std::pair<std::string, std::string> format_grids(const Report& report, const RoleSize& size) {
  int64_t clipped = 0;
  bool has_grids = false, moved = false;
  double least = NAN, most = NAN;
  for (const TensorReport& tensor : report.tensors) {
    if (tensor.role != size.role || !tensor.error.grid) continue;
    has_grids = true;
    moved = moved || tensor.moved;
    clipped += tensor.error.grid->clipped;
    least = std::fmin(least, tensor.error.grid->scale_min);
    most = std::fmax(most, tensor.error.grid->scale_max);
  }
  if (!has_grids) return {};
  return {moved ? "moved" : fmt::format("{:.2f} %", 100 * static_cast<double>(clipped) / static_cast<double>(size.weights)), std::isnan(least) ? "" : fmt::format("{:.2g} … {:.2g}", least, most)};
}

std::string format_sizes(const Report& report) {
  Table table({{"role", Align::left}, {"tensors", Align::right}, {"weights", Align::right}, {"before", Align::right}, {"after", Align::right}, {"bits/weight", Align::right}, {"worst SQNR", Align::right}, {"clipped", Align::right}, {"scales", Align::right}});
  for (const RoleSize& size : sizes_by_role(report)) {
    const auto [clipped, scales] = format_grids(report, size);
    double worst = std::numeric_limits<double>::infinity();
    bool moved = false;
    for (const TensorReport& tensor : report.tensors)
      if (tensor.role == size.role) worst = std::min(worst, tensor.error.sqnr_db), moved = moved || tensor.moved;
    const std::string shown = moved ? "moved" : std::isinf(worst) ? "exact" : fmt::format("{:.1f} dB", worst);
    table.add({size.role, fmt::format("{}", size.tensors), fmt::format("{}", size.weights), format_size(size.source_bytes), format_size(size.bytes), fmt::format("{:.2f}", 8.0 * static_cast<double>(size.bytes) / static_cast<double>(size.weights)), shown, clipped, scales});
  }
  return table.text();
}

/// What is left of a pruned model.
std::string format_cost(const Report& report) {
  const ZeroCount all = count_zeros(report);
  const auto per_token = [](int64_t multiply_adds) { return fmt::format("{:.4g}", 2e-6 * static_cast<double>(multiply_adds)); };
  std::string text = fmt::format("parameters {} → {}, {} of them not zero\n", report.parameters, all.weights, all.weights - all.zeros);
  text += fmt::format("compute    {} → {} MFLOP per token with the weights, {} without zeros\n", per_token(report.multiply_adds), per_token(all.multiply_adds), per_token(all.nonzero_multiply_adds));
  return text;
}

/// Where its zeros are, and how they are stored.
std::string format_zeros(const Report& report) {
  Table codecs({{"codec", Align::left}, {"tensors", Align::right}, {"weights", Align::right}, {"zeros", Align::right}, {"bits/weight", Align::right}});
  const auto row = [](const std::string& name, const ZeroCount& count) { return std::vector<std::string>{name, fmt::format("{}", count.tensors), fmt::format("{}", count.weights), fmt::format("{:.2f} %", 100 * count.share()), fmt::format("{:.2f}", 8.0 * static_cast<double>(count.bytes) / static_cast<double>(count.weights))}; };
  for (const auto& [codec, count] : zeros_by_codec(report)) codecs.add(row(codec, count));
  Table blocks({{"linear weights of", Align::left}, {"tensors", Align::right}, {"weights", Align::right}, {"zeros", Align::right}, {"bits/weight", Align::right}});
  for (const auto& [block, count] : zeros_by_block(report)) blocks.add(row(fmt::format("block {}", block), count));
  return codecs.text() + "\n" + blocks.text();
}

/// The scan of --sensitivity: a row for each block.
std::string format_figures(const std::string& title, const nlohmann::json& scan, const BlockFigures& blocks) {
  std::vector<std::pair<std::string, Align>> columns = {{title, Align::left}};
  for (const auto& sparsity : scan.at("sparsities")) columns.push_back({fmt::format("{:.0f} %", 100 * sparsity.get<double>()), Align::right});
  Table table(columns);
  for (const auto& [block, figures] : blocks) {
    std::vector<std::string> row = {fmt::format("block {}", block)};
    for (double figure : figures) row.push_back(fmt::format("{:.4f}", figure));
    table.add(row);
  }
  return table.text();
}

std::string format_sensitivity(const nlohmann::json& scan) { return format_figures("relative output error", scan, mean_output_errors(scan)) + "\n" + format_figures("KL divergence", scan, block_divergences(scan)); }

std::string format_steps(const Report& report) {
  Table table({{"step", Align::left}, {"seconds", Align::right}, {"peak memory", Align::right}});
  for (const StepReport& step : report.steps) table.add({step.name, fmt::format("{:.2f}", step.seconds), format_size(step.peak_memory_bytes)});
  return table.text();
}

std::string format_gates(const Report& report, bool colour) {
  Table table({{"gate", Align::left}, {"limit", Align::right}, {"value", Align::right}, {"", Align::left}});
  for (const Gate& gate : report.gates) {
    const std::string verdict = gate.passed ? "passed" : "MISSED";
    const std::string shown = !colour ? verdict : fmt::format("\033[{}m{}\033[0m", gate.passed ? 32 : 31, verdict);
    table.add({gate.name, fmt::format("{} {:.6g}", gate.direction == GateDirection::at_most ? "≤" : "≥", gate.limit), gate.value ? fmt::format("{:.6g}", *gate.value) : "none", shown});
  }
  return table.text();
}

/// "1 token", "2 tokens"
std::string number_of(int64_t count, std::string_view thing) { return fmt::format("{} {}{}", count, thing, count == 1 ? "" : "s"); }

/// On what a model was judged, and how.
std::string format_conditions(const Quality& quality) {
  std::string text = fmt::format("on {}: {} scored of {}, {}\n", quality.data, number_of(quality.scored_tokens, "token"), quality.tokens, quality.convention);
  if (quality.kv_cache_bits) text += fmt::format("keys and values rounded to {} bits\n", *quality.kv_cache_bits);
  return text;
}

std::string format_hidden_errors(const std::string& model, const std::string& reference, const std::vector<HiddenError>& errors) {
  Table table({{fmt::format("hidden states of {} beside {}", model, reference), Align::left}, {"relative error", Align::right}, {"cosine", Align::right}});
  for (size_t block = 0; block < errors.size(); ++block) table.add({fmt::format("block {}", block), fmt::format("{:.4e}", errors[block].relative_error), fmt::format("{:.6f}", errors[block].cosine)});
  return table.text();
}

std::string format_share(const Share& share) { return fmt::format("{:.2f} % ({:.2f} … {:.2f})", 100 * share.value, 100 * share.low, 100 * share.high); }

}  // namespace

std::string format_products(const ProductSpeeds& products) {
  if (products.skipped.empty()) return {};
  return fmt::format("zeros skipped in {} of {} weights of the blocks: their products took {:.2f} of the dense f32 time ({:.2f} times as fast; {} tokens, one thread)\n", products.skipped.size(), products.weights, 1 / products.ratio(), products.ratio(), measured_tokens);
}

std::string format_quality(const Quality& quality, const std::optional<OracleAgreement>& oracle) {
  Table table({{"quality", Align::left}, {"model", Align::right}, {"reference", Align::right}, {"", Align::left}});
  const Comparison* c = quality.comparison ? &*quality.comparison : nullptr;
  const auto reference = [&](double value) { return c ? fmt::format("{:.4f}", value) : std::string(); };
  const std::string change = !c ? "" : fmt::format("{:+.2f} %{}", 100 * c->perplexity_increase, c->perplexity_delta_error ? fmt::format(" (Δ {:+.4f} ± {:.4f})", c->perplexity_delta, *c->perplexity_delta_error) : "");
  table.add({"perplexity", fmt::format("{:.4f}", quality.perplexity), reference(c ? c->reference_perplexity : 0), change});
  if (quality.bits_per_byte) table.add({"bits per byte", fmt::format("{:.4f}", *quality.bits_per_byte), "", ""});
  table.add({"top-1 accuracy", fmt::format("{:.4f}", quality.top1_accuracy), reference(c ? c->reference_top1_accuracy : 0), ""});
  if (c) {
    table.add({"top-1 agreement", fmt::format("{:.4f}", c->top1_agreement), "", ""});
    table.add({"KL divergence", fmt::format("{:.6f}", c->kl_mean), "", fmt::format("median {:.6f}, 99 % {:.6f}, max {:.6f}", c->kl_median, c->kl_p99, c->kl_max)});
  }
  std::string text = table.text();
  text += format_conditions(quality);
  if (quality.execution != Execution::floats) text += fmt::format("inputs rounded to codes; products {}\n", quality.execution == Execution::integers ? "of integers (int8)" : "simulated in floats");
  if (oracle) text += fmt::format("fast pass against the oracle: max |Δ logit| {:.2e} over {} positions (logits up to {:.1f})\n", oracle->max_logit_difference, oracle->positions, oracle->max_logit);
  if (oracle && oracle->rounding_difference) text += fmt::format("mean |Δ logit| {:.2e}; {:.2e} when rounding alone moves values between codes\n", oracle->mean_logit_difference, *oracle->rounding_difference);
  return text;
}

std::string format_judgements(const std::vector<std::string>& models, const std::vector<std::string>& references, const std::vector<Judgement>& judgements) {
  Table table({{"model", Align::left}, {"perplexity", Align::right}, {"bits per byte", Align::right}, {"top-1 accuracy", Align::right}});
  const auto add = [&](const std::string& name, double perplexity, std::optional<double> bits, double accuracy) { table.add({name, fmt::format("{:.4f}", perplexity), bits ? fmt::format("{:.4f}", *bits) : "", fmt::format("{:.4f}", accuracy)}); };
  for (size_t i = 0; i < judgements.size(); ++i) add(models[i], judgements[i].quality.perplexity, judgements[i].quality.bits_per_byte, judgements[i].quality.top1_accuracy);
  for (size_t i = 0; i < references.size(); ++i) add(references[i], judgements.front().comparisons[i].reference_perplexity, std::nullopt, judgements.front().comparisons[i].reference_top1_accuracy);
  std::string text = table.text();
  Table pairs({{"model", Align::left}, {"reference", Align::left}, {"perplexity", Align::right}, {"KL divergence", Align::right}, {"99 %", Align::right}, {"top-1 agreement", Align::right}});
  for (size_t i = 0; i < judgements.size(); ++i)
    for (size_t r = 0; r < references.size(); ++r) {
      const Comparison& c = judgements[i].comparisons[r];
      pairs.add({models[i], references[r], fmt::format("{:+.2f} %", 100 * c.perplexity_increase), fmt::format("{:.6f}", c.kl_mean), fmt::format("{:.6f}", c.kl_p99), fmt::format("{:.4f}", c.top1_agreement)});
    }
  if (!references.empty()) text += "\n" + pairs.text();
  text += format_conditions(judgements.front().quality);
  for (size_t i = 0; i < judgements.size(); ++i)
    for (size_t r = 0; r < references.size(); ++r)
      if (const auto& errors = judgements[i].comparisons[r].hidden_errors; !errors.empty()) text += "\n" + format_hidden_errors(models[i], references[r], errors);
  return text;
}

std::string format_choices(const std::vector<std::string>& models, const std::vector<std::string>& references, const std::vector<ChoiceQuality>& choices) {
  Table table({{fmt::format("{} of {}", number_of(choices.front().questions, "question"), choices.front().data), Align::left}, {"answered right (95 %)", Align::right}, {"by byte (95 %)", Align::right}});
  for (size_t i = 0; i < choices.size(); ++i) table.add({models[i], format_share(choices[i].accuracy), format_share(choices[i].accuracy_per_byte)});
  Table pairs({{"model", Align::left}, {"reference", Align::left}, {"reference's", Align::right}, {"difference", Align::right}, {"agreement", Align::right}});
  for (size_t i = 0; i < choices.size(); ++i)
    for (size_t r = 0; r < references.size(); ++r) {
      const ChoiceComparison& c = choices[i].comparisons[r];
      pairs.add({models[i], references[r], fmt::format("{:.2f} %", 100 * c.reference_accuracy), fmt::format("{:+.2f}{}", 100 * c.difference, c.difference_error ? fmt::format(" ± {:.2f}", 100 * *c.difference_error) : ""), fmt::format("{:.2f} %", 100 * c.agreement)});
    }
  return table.text() + (references.empty() ? "" : "\n" + pairs.text());
}

std::string format_report(const Report& report, bool colour) {
  std::string text = format_sizes(report) + "\n";
  text += fmt::format("weights    {} → {}   {:.2f} times smaller, {:.3f} bits per weight\n", format_size(report.source_bytes), format_size(report.artifact_bytes), report.ratio(), report.bits_per_weight());
  if (report.pruned) text += fmt::format("zeros      {:.2f} % of the treated weights{}\n", 100 * report.sparsity, report.dense_bytes ? fmt::format("; {} as an ordinary checkpoint", format_size(*report.dense_bytes)) : "");
  text += fmt::format("artifact   {} ({})\n", report.artifact_path, report.container);
  if (report.pruned) text += format_cost(report);
  for (const std::string& note : report.notes) text += fmt::format("note       {}\n", note);
  if (report.pruned) text += "\n" + format_zeros(report);
  if (report.quality) text += "\n" + format_quality(*report.quality, report.oracle) + format_products(report.products);
  for (const StepReport& step : report.steps)
    if (step.details.contains("sensitivity")) text += "\n" + format_sensitivity(step.details.at("sensitivity"));
  text += "\n" + format_steps(report);
  if (!report.gates.empty()) text += "\n" + format_gates(report, colour);
  return text;
}

}  // namespace llmc
