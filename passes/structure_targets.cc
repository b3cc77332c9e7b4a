#include "passes/structure_targets.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "model/block_tensors.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr std::array importance_names = {"magnitude", "activation", "loss", "taylor"};
constexpr const char* block_influence = "block-influence";  // how layers are ranked, and nothing else

/// A share of many channels leaves a multiple of this where there was one, so that groups of a quantizer and tiles of a product fit.
constexpr int64_t granule = 32, many = 256;

/// Channels that stay: exactly as many as a count says, by a share to the nearest granule.
int64_t keep_channels(const Amount& amount, int64_t total) {
  if (amount.share == 0 || total < many || total % granule != 0) return total - amount.of(total);
  return std::clamp<int64_t>(std::llround((1 - amount.share) * static_cast<double>(total) / granule) * granule, granule, total);
}

/// Key/value groups that stay.
int64_t keep_groups(const Amount& amount, const ModelConfig& config, Problems& problems) {
  const int64_t shared = config.heads / config.kv_heads;
  if (amount.share > 0) {
    const double groups = amount.share * static_cast<double>(config.kv_heads);
    if (std::abs(groups - std::round(groups)) < 0.01) return config.kv_heads - std::llround(groups);
    std::vector<std::string> possible;
    for (int64_t g = 1; g < std::min<int64_t>(config.kv_heads, 9); ++g) possible.push_back(fmt::format("{:.4g}%", 100 * static_cast<double>(g) / static_cast<double>(config.kv_heads)));
    problems.add(fmt::format("heads: {:.4g} % of {} key/value groups is {:.4g} of them; expected a whole number of groups{}", 100 * amount.share, config.kv_heads, groups, possible.empty() ? "" : fmt::format(", such as {}", fmt::join(possible, ", "))));
  } else if (amount.count % shared != 0) {
    problems.add(fmt::format("heads: {} heads share each key and value and go together; expected a multiple of {}, found {}", shared, shared, amount.count));
  } else {
    return config.kv_heads - amount.count / shared;
  }
  return config.kv_heads;
}

std::optional<Amount> find_amount(FieldReader& fields, const std::string& key, const std::string& where) {
  const json* value = fields.find(key);
  return value ? std::optional(read_amount(*value, where + ": " + key)) : std::nullopt;
}

}  // namespace

std::string_view to_string(Importance importance) { return importance_names[static_cast<size_t>(importance)]; }

StructureTargets::StructureTargets(FieldReader& fields, const std::string& where) : ffn_(find_amount(fields, "ffn", where)), heads_(find_amount(fields, "heads", where)), hidden_(find_amount(fields, "hidden", where)), layers_(find_amount(fields, "layers", where)) {
  const auto fail = [&](const std::string& text) { throw Error(ErrorKind::usage, where + ": " + text); };
  if (!ranks_channels() && !layers_) fail("nothing to remove: expected at least one of ffn, heads, hidden, layers");
  for (const auto& [name, amount] : {std::pair("ffn", &ffn_), {"heads", &heads_}, {"hidden", &hidden_}})
    if (*amount && !(*amount)->list.empty()) fail(fmt::format("{}: which ones are named only for layers; expected a share or a count", name));
  const auto importance = fields.find_string("importance");
  if (importance == block_influence) {
    if (ranks_channels()) fail("importance block-influence ranks layers only; expected magnitude, activation, loss or taylor");
  } else if (importance) {
    const auto found = std::ranges::find(importance_names, *importance);
    if (found == importance_names.end()) fail(fmt::format("importance '{}' is not known; expected magnitude, activation, loss, taylor or block-influence", *importance));
    if (!ranks_channels()) fail(fmt::format("importance {} ranks channels and heads; layers go by block-influence", *importance));
    importance_ = static_cast<Importance>(found - importance_names.begin());
  }
  compensates_ = fields.find_bool("compensate").value_or(true);
  const auto damping = fields.find_number("damping");
  damping_ = damping.value_or(damping_);
  if (!(damping_ > 0 && damping_ <= 1)) fail(fmt::format("damping: expected more than 0 and at most 1, found {}", damping_));
  if (damping && !compensates_ && importance_ != Importance::loss) fail("damping makes sense only with compensate or importance loss");
}

json StructureTargets::options() const {
  json result = {{"importance", ranks_channels() ? json(to_string(importance_)) : json(block_influence)}, {"compensate", compensates_}, {"damping", damping_}};
  if (!compensates_ && importance_ != Importance::loss) result.erase("damping");
  if (ffn_) result["ffn"] = to_json(*ffn_);
  if (heads_) result["heads"] = to_json(*heads_);
  if (hidden_) result["hidden"] = to_json(*hidden_);
  if (layers_) result["layers"] = to_json(*layers_);
  return result;
}

Sizes StructureTargets::resolve(const Model& model) const {
  const ModelConfig& config = model.config();
  if (ranks_channels() && importance_ == Importance::taylor) check_trainable(model, "prune.structured: importance taylor");
  Problems problems;
  for (const PlacedTensor& placed : model.tensors()) {
    if (find_scheme(*placed.tensor)) problems.add(fmt::format("tensor {}: is already quantized; remove structures before quantizing", placed.tensor->name));
    else if (placed.tensor->pruned) problems.add(fmt::format("tensor {}: is pruned, and compensation would fill its zeros; remove structures before single weights", placed.tensor->name));
  }
  problems.throw_if_any(ErrorKind::usage, "prune.structured");
  const Sizes before = sizes_of(config);
  Sizes sizes = before;
  if (ffn_) sizes.ffn = keep_channels(*ffn_, config.ffn);
  if (heads_) sizes.kv_groups = keep_groups(*heads_, config, problems);
  if (hidden_) sizes.hidden = keep_channels(*hidden_, config.hidden);
  if (layers_) sizes.blocks = config.layers - layers_->of(config.layers);
  if (layers_ && !layers_->list.empty() && layers_->list.back() >= config.layers) problems.add(fmt::format("layers: there is no layer {}; expected 0 to {}", layers_->list.back(), config.layers - 1));
  for (const auto& [name, amount, same] : {std::tuple("ffn", &ffn_, sizes.ffn == before.ffn), {"heads", &heads_, sizes.kv_groups == before.kv_groups}, {"hidden", &hidden_, sizes.hidden == before.hidden}, {"layers", &layers_, sizes.blocks == before.blocks}})
    if (*amount && same && problems.empty()) problems.add(fmt::format("{}: {} removes nothing of this model", name, to_json(**amount).dump()));
  if (problems.empty()) check_sizes(model, sizes, problems);
  problems.throw_if_any(ErrorKind::usage, "prune.structured");
  return sizes;
}

std::vector<Treatment> StructureTargets::plan(const Model& model) const {
  const ModelConfig& config = model.config();
  const Sizes sizes = resolve(model);
  const int64_t shared = config.heads / config.kv_heads;
  std::vector<Treatment> treatments;
  for (const PlacedTensor& placed : model.tensors()) {
    const bool is_matrix = placed.part == Part::weight && placed.row->kind != TensorKind::norm;
    const auto touches = [&](auto... dimensions) { return ((placed.row->out == dimensions || (is_matrix && placed.row->in == dimensions)) || ...); };
    std::string description;
    if (ffn_ && touches(Dimension::ffn)) description = fmt::format("channels {} → {}", config.ffn, sizes.ffn);
    if (heads_ && touches(Dimension::query_width, Dimension::kv_width, Dimension::query_key_value_width)) description = fmt::format("heads {} → {}", config.heads, sizes.kv_groups * shared);
    if (hidden_ && touches(Dimension::hidden)) description += fmt::format("{}hidden {} → {}", description.empty() ? "" : ", ", config.hidden, sizes.hidden);
    if (compensates_ && is_block_linear(placed)) description += description.empty() ? "refitted" : ", refitted";
    if (!description.empty()) treatments.push_back({&placed, description, 8.0 * static_cast<double>(get_info(placed.tensor->dtype).bytes)});
  }
  return treatments;
}

}  // namespace llmc
