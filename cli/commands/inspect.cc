// llmc inspect: what a checkpoint or artifact holds.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/shared_options.h"
#include "cli/table.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/units.h"
#include "formats/codec.h"
#include "model/ignored_fields.h"
#include "model/model.h"
#include "verify/report.h"

namespace llmc {
namespace {

using nlohmann::json;

struct TensorFacts {
  std::string encoding;  ///< codec and scheme, or "dense"
  uint64_t bytes = 0;
  double low = 0, high = 0, rms = 0;
  double zeros = 0;      ///< share
  double outliers = 0;   ///< share of weights beyond six standard deviations
};

TensorFacts examine(const StoredTensor& tensor) {
  TensorFacts facts{.encoding = "dense"};
  if (const auto* data = std::get_if<EncodedData>(&tensor.form)) {
    facts.encoding = data->codec->name;
    if (data->codec->holds_codes) facts.encoding += " " + to_string(data->scheme);
    for (const auto& [name, part] : data->parts) facts.bytes += part.bytes.size();
  } else {
    facts.bytes = std::get<FloatData>(tensor.form).bytes().size();
  }
  const Matrix values = read_matrix(tensor);
  double sum = 0, square = 0;
  int64_t zeros = 0, outliers = 0;
  facts.low = INFINITY, facts.high = -INFINITY;
  for (float x : values.values()) {
    facts.low = std::min<double>(facts.low, x), facts.high = std::max<double>(facts.high, x);
    sum += x, square += static_cast<double>(x) * x, zeros += x == 0;
  }
  const double count = static_cast<double>(values.values().size());
  const double mean = sum / count, deviation = std::sqrt(std::max(0.0, square / count - mean * mean));
  for (float x : values.values()) outliers += std::abs(x - mean) > 6 * deviation;
  facts.rms = std::sqrt(square / count);
  facts.zeros = static_cast<double>(zeros) / count;
  facts.outliers = static_cast<double>(outliers) / count;
  return facts;
}

json describe(const Model& model) {
  const ModelConfig& c = model.config();
  return {{"architecture", model.architecture().model_type}, {"container", to_string(model.checkpoint().container)}, {"parameters", model.parameters()}, {"bytes", model.checkpoint().weight_bytes()}, {"bits_per_weight", 8.0 * static_cast<double>(model.checkpoint().weight_bytes()) / static_cast<double>(model.parameters())},
          {"config", {{"vocabulary", c.vocabulary}, {"hidden", c.hidden}, {"layers", c.layers}, {"heads", c.heads}, {"kv_heads", c.kv_heads}, {"head_dim", c.head_dim}, {"ffn", c.ffn}, {"context", c.context}, {"norm", to_string(c.norm)}, {"norm_epsilon", c.norm_epsilon}, {"positions", to_string(c.positions)}, {"rope_theta", c.positions == Positions::rope ? json(c.rope.theta) : json()}, {"feed_forward", to_string(c.feed_forward)}, {"activation", to_string(c.activation)}, {"tied_head", c.tied_head}}}};
}

int run_inspect(const std::string& path, const std::set<std::string>& ignored, const CommandContext& context) {
  const Model model = load_model(path, ignored, context.run);
  warn_of_idle_fields({&model}, ignored, context.run);
  std::vector<TensorFacts> facts(model.tensors().size());
  parallel_for(static_cast<int64_t>(facts.size()), [&](int64_t i) { facts[static_cast<size_t>(i)] = examine(*model.tensors()[static_cast<size_t>(i)].tensor); });

  json result = describe(model);
  if (context.common.json) {
    result["tensors"] = json::array();
    for (size_t i = 0; i < facts.size(); ++i) {
      const StoredTensor& tensor = *model.tensors()[i].tensor;
      const TensorFacts& f = facts[i];
      result["tensors"].push_back({{"name", tensor.name}, {"role", to_string(model.tensors()[i].row->role)}, {"dtype", get_info(tensor.dtype).name}, {"shape", tensor.shape}, {"encoding", f.encoding}, {"bytes", f.bytes}, {"min", number(f.low)}, {"max", number(f.high)}, {"rms", number(f.rms)}, {"zeros", number(f.zeros)}, {"outliers", number(f.outliers)}});
    }
    fmt::print("{}", format_json(result));
    return exit_done;
  }
  const ModelConfig& c = model.config();
  fmt::print("{}   {} ({}), {} parameters, {} ({:.3f} bits per weight)\n", path, model.architecture().model_type, to_string(model.checkpoint().container), model.parameters(), format_size(model.checkpoint().weight_bytes()), result["bits_per_weight"].get<double>());
  fmt::print("{} layers, hidden {}, ffn {} ({}, {}), {} heads of {} ({} key/value), vocabulary {}, context {}, {} norm, {} positions, {} head\n\n", c.layers, c.hidden, c.ffn, to_string(c.feed_forward), to_string(c.activation), c.heads, c.head_dim, c.kv_heads, c.vocabulary, c.context, to_string(c.norm), to_string(c.positions), c.tied_head ? "tied" : "own");
  Table table({{"tensor", Align::left}, {"dtype", Align::left}, {"shape", Align::left}, {"stored", Align::left}, {"size", Align::right}, {"min", Align::right}, {"max", Align::right}, {"rms", Align::right}, {"zeros", Align::right}, {"beyond 6σ", Align::right}});
  for (size_t i = 0; i < facts.size(); ++i) {
    const StoredTensor& tensor = *model.tensors()[i].tensor;
    const TensorFacts& f = facts[i];
    table.add({tensor.name, std::string(get_info(tensor.dtype).name), to_string(tensor.shape), f.encoding, format_size(f.bytes), fmt::format("{:.4g}", f.low), fmt::format("{:.4g}", f.high), fmt::format("{:.4g}", f.rms), fmt::format("{:.2f} %", 100 * f.zeros), fmt::format("{:.3f} %", 100 * f.outliers)});
  }
  fmt::print("{}", table.text());
  return exit_done;
}

}  // namespace

CommandFunction add_inspect(CLI::App& app) {
  struct Options {
    std::string model;
    std::vector<std::string> ignored_config_fields;
  };
  app.description("Shows a checkpoint or artifact: architecture, sizes, and each tensor's type, shape, range and outliers.");
  app.footer("Example:\n  llmc inspect MODEL --json");
  auto options = std::make_shared<Options>();
  app.add_option("MODEL", options->model, "Checkpoint or artifact directory, or a GGUF file")->required();
  add_ignored_config_fields(app, options->ignored_config_fields);
  return [options](const CommandContext& context) { return run_inspect(options->model, as_set(options->ignored_config_fields), context); };
}

}  // namespace llmc
