#include "verify/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/utf8.h"

namespace llmc {

using nlohmann::json;

bool Report::passed() const { return std::ranges::all_of(gates, &Gate::passed); }

std::vector<RoleSize> sizes_by_role(const Report& report) {
  std::vector<RoleSize> sizes;
  for (const TensorReport& tensor : report.tensors) {
    auto row = std::ranges::find(sizes, tensor.role, &RoleSize::role);
    if (row == sizes.end()) row = sizes.insert(sizes.end(), {.role = tensor.role});
    row->tensors += 1;
    row->weights += tensor.error.count;
    row->source_bytes += tensor.source_bytes;
    row->bytes += tensor.bytes;
  }
  return sizes;
}

namespace {

void add(ZeroCount& sum, const TensorReport& tensor) {
  sum.tensors += 1;
  sum.weights += tensor.error.count;
  sum.zeros += tensor.error.zeros;
  sum.bytes += tensor.bytes;
  sum.multiply_adds += tensor.multiply_adds;
  if (tensor.multiply_adds > 0) sum.nonzero_multiply_adds += tensor.error.count - tensor.error.zeros;
}

}  // namespace

ZeroCount count_zeros(const Report& report) {
  ZeroCount sum;
  for (const TensorReport& tensor : report.tensors) add(sum, tensor);
  return sum;
}

std::map<std::string, ZeroCount> zeros_by_codec(const Report& report) {
  std::map<std::string, ZeroCount> sums;
  for (const TensorReport& tensor : report.tensors) add(sums[tensor.codec], tensor);
  return sums;
}

std::map<int64_t, ZeroCount> zeros_by_block(const Report& report) {
  std::map<int64_t, ZeroCount> sums;
  for (const TensorReport& tensor : report.tensors)
    if (tensor.block >= 0 && tensor.multiply_adds > 0) add(sums[tensor.block], tensor);
  return sums;
}

json number(double value) { return std::isfinite(value) ? json(value) : json(); }

namespace {

json optional_number(const std::optional<double>& value) { return value ? number(*value) : json(); }

json to_json(const TensorReport& tensor) {
  const double count = static_cast<double>(std::max<int64_t>(1, tensor.error.count));
  json candidates = json::object();
  for (const auto& [codec, bytes] : tensor.candidates) candidates[std::string(codec)] = bytes;
  const auto& grid = tensor.error.grid;
  return {{"name", tensor.name},
          {"role", tensor.role},
          {"block", tensor.block < 0 ? json() : json(tensor.block)},
          {"shape", tensor.shape},
          {"treatment", tensor.treatment},
          {"codec", tensor.codec},
          {"candidates", std::move(candidates)},
          {"source_bytes", tensor.source_bytes},
          {"bytes", tensor.bytes},
          {"bits_per_weight", 8.0 * static_cast<double>(tensor.bytes) / count},
          {"moved", tensor.moved},
          {"sqnr_db", tensor.moved ? json() : number(tensor.error.sqnr_db)},
          {"max_error", tensor.moved ? json() : number(tensor.error.max_error)},
          {"clipped", tensor.moved || !grid ? json() : json(static_cast<double>(grid->clipped) / count)},
          {"scale_min", grid ? number(grid->scale_min) : json()},
          {"scale_max", grid ? number(grid->scale_max) : json()},
          {"sparsity", static_cast<double>(tensor.error.zeros) / count}};
}

json to_json(const ZeroCount& count) { return {{"tensors", count.tensors}, {"weights", count.weights}, {"zeros", count.zeros}, {"sparsity", number(count.share())}, {"bytes", count.bytes}}; }

/// Before and after, per model and per token. A multiply-add is two operations.
json cost_to_json(const Report& report) {
  const ZeroCount after = count_zeros(report);
  return {{"before", {{"parameters", report.parameters}, {"flops_per_token", 2 * report.multiply_adds}, {"bits_per_weight", 8.0 * static_cast<double>(report.source_bytes) / static_cast<double>(report.parameters)}}},
          {"after", {{"parameters", after.weights}, {"nonzero_parameters", after.weights - after.zeros}, {"flops_per_token", 2 * after.multiply_adds}, {"flops_per_token_without_zeros", 2 * after.nonzero_multiply_adds}, {"bits_per_weight", report.bits_per_weight()}}}};
}

json to_json(const Gate& gate) {
  return {{"name", gate.name}, {"direction", gate.direction == GateDirection::at_most ? "at_most" : "at_least"}, {"limit", gate.limit}, {"value", optional_number(gate.value)}, {"passed", gate.passed}};
}

std::string escape_xml(std::string_view text) {
  std::string escaped;
  for (char c : replace_invalid_utf8(text)) {
    if (static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n') c = '?';  // XML has no other control characters
    switch (c) {
      case '&': escaped += "&amp;"; break;
      case '<': escaped += "&lt;"; break;
      case '>': escaped += "&gt;"; break;
      case '"': escaped += "&quot;"; break;
      default: escaped += c;
    }
  }
  return escaped;
}

}  // namespace

json to_json(const Quality& quality) {
  json result = {{"data", quality.data},
                 {"convention", quality.convention},
                 {"windows", quality.windows},
                 {"tokens", quality.tokens},
                 {"unused_tokens", quality.unused_tokens},
                 {"scored_tokens", quality.scored_tokens},
                 {"mean_nll", number(quality.mean_nll)},
                 {"perplexity", number(quality.perplexity)},
                 {"bits_per_byte", optional_number(quality.bits_per_byte)},
                 {"top1_accuracy", number(quality.top1_accuracy)},
                 {"execution", to_string(quality.execution)},
                 {"kv_cache_bits", quality.kv_cache_bits ? json(*quality.kv_cache_bits) : json()}};
  if (quality.comparison) result.update(to_json(*quality.comparison));
  return result;
}

json to_json(const Comparison& c) {
  json result = {{"reference_perplexity", number(c.reference_perplexity)},
                 {"reference_top1_accuracy", number(c.reference_top1_accuracy)},
                 {"perplexity_increase", number(c.perplexity_increase)},
                 {"perplexity_delta", number(c.perplexity_delta)},
                 {"perplexity_delta_standard_error", optional_number(c.perplexity_delta_error)},
                 {"kl_mean", number(c.kl_mean)},
                 {"kl_median", number(c.kl_median)},
                 {"kl_p99", number(c.kl_p99)},
                 {"kl_max", number(c.kl_max)},
                 {"shared_probability", optional_number(c.shared_probability)},
                 {"top1_agreement", number(c.top1_agreement)}};
  for (const HiddenError& error : c.hidden_errors) result["hidden_errors"].push_back({{"relative_error", number(error.relative_error)}, {"cosine", number(error.cosine)}});
  return result;
}

json to_json(const ChoiceQuality& choices) {
  const auto share = [](const Share& of) { return json{{"value", number(of.value)}, {"low", number(of.low)}, {"high", number(of.high)}}; };
  json result = {{"data", choices.data}, {"questions", choices.questions}, {"starts_with_bos", choices.starts_with_bos}, {"accuracy", share(choices.accuracy)}, {"accuracy_per_byte", share(choices.accuracy_per_byte)}, {"comparisons", json::array()}};
  for (const ChoiceComparison& c : choices.comparisons) result["comparisons"].push_back({{"reference_accuracy", number(c.reference_accuracy)}, {"agreement", number(c.agreement)}, {"difference", number(c.difference)}, {"difference_standard_error", optional_number(c.difference_error)}});
  return result;
}

json to_json(const OracleAgreement& oracle) {
  return {{"positions", oracle.positions}, {"max_logit_difference", number(oracle.max_logit_difference)}, {"mean_logit_difference", number(oracle.mean_logit_difference)}, {"max_logit", number(oracle.max_logit)}, {"rounding_difference", optional_number(oracle.rounding_difference)}};
}

json to_json(const ProductSpeeds& products) {
  if (products.skipped.empty()) return {};
  json tensors = json::array();
  for (const ProductSpeed& speed : products.skipped) tensors.push_back({{"name", speed.tensor}, {"zeros", speed.zeros}, {"ratio", number(speed.ratio())}});
  return {{"weights", products.weights}, {"skipped", products.skipped.size()}, {"tokens", measured_tokens}, {"dense_seconds", products.dense_seconds()}, {"sparse_seconds", products.sparse_seconds()}, {"ratio", number(products.ratio())}, {"tensors", std::move(tensors)}};
}

json to_json(const Report& report) {
  json result = {{"format", "llmc-report"},
                 {"version", report_version},
                 {"llmc_version", report.llmc_version},
                 {"architecture", report.architecture},
                 {"parameters", report.parameters},
                 {"source", {{"path", report.source_path}, {"bytes", report.source_bytes}}},
                 {"artifact", {{"path", report.artifact_path}, {"bytes", report.artifact_bytes}, {"container", report.container}, {"dense_bytes", report.dense_bytes ? json(*report.dense_bytes) : json()}}},
                 {"ratio", report.ratio()},
                 {"bits_per_weight", report.bits_per_weight()},
                 {"sparsity", report.sparsity},
                 {"recipe", report.recipe},
                 {"calibration", report.calibration},
                 {"notes", report.notes},
                 {"passed", report.passed()}};
  result["sizes"] = json::array();
  for (const RoleSize& size : sizes_by_role(report)) result["sizes"].push_back({{"role", size.role}, {"tensors", size.tensors}, {"weights", size.weights}, {"source_bytes", size.source_bytes}, {"bytes", size.bytes}});
  result["cost"] = cost_to_json(report);
  result["zeros_by_codec"] = json::object();
  for (const auto& [codec, count] : zeros_by_codec(report)) result["zeros_by_codec"][codec] = to_json(count);
  result["zeros_by_block"] = json::array();
  for (const auto& [block, count] : zeros_by_block(report)) result["zeros_by_block"].push_back(to_json(count));
  result["tensors"] = json::array();
  for (const TensorReport& tensor : report.tensors) result["tensors"].push_back(to_json(tensor));
  result["quality"] = report.quality ? to_json(*report.quality) : json();
  result["oracle"] = report.oracle ? to_json(*report.oracle) : json();
  result["sparse_products"] = to_json(report.products);
  result["steps"] = json::array();
  for (const StepReport& step : report.steps) result["steps"].push_back({{"name", step.name}, {"seconds", step.seconds}, {"peak_memory_bytes", step.peak_memory_bytes}, {"details", step.details}});
  result["gates"] = json::array();
  for (const Gate& gate : report.gates) result["gates"].push_back(to_json(gate));
  return result;
}

std::string to_junit(const Report& report) {
  const auto failures = std::ranges::count(report.gates, false, &Gate::passed);
  std::string xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
  xml += fmt::format("<testsuites><testsuite name=\"llmc {}\" tests=\"{}\" failures=\"{}\">\n", escape_xml(report.artifact_path), report.gates.size(), failures);
  for (const Gate& gate : report.gates) {
    xml += fmt::format("  <testcase classname=\"llmc.gates\" name=\"{}\">", escape_xml(gate.name));
    if (!gate.passed) xml += fmt::format("<failure message=\"{}\"/>", escape_xml(describe_misses({gate})));
    xml += "</testcase>\n";
  }
  return xml + "</testsuite></testsuites>\n";
}

}  // namespace llmc
