#include "model/cut.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/parallel.h"

namespace llmc {
namespace {

using Indices = std::vector<int64_t>;

Indices first_indices(int64_t count) {
  Indices indices(static_cast<size_t>(count));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

const ConfigRow* find_config_row(const Architecture& architecture, int64_t ModelConfig::* field) {
  const auto row = std::ranges::find(architecture.config, field, &ConfigRow::count);
  return row == architecture.config.end() ? nullptr : &*row;
}

bool has_norm_of_all_heads(const Architecture& architecture) {
  return std::ranges::any_of(architecture.tensors, [](const TensorRow& row) { return row.role == Role::query_norm && row.out == Dimension::query_width; });
}

/// The config after a cut.
ModelConfig resize(ModelConfig config, const Sizes& sizes) {
  config.heads = config.heads / config.kv_heads * sizes.kv_groups;
  config.kv_heads = sizes.kv_groups;
  config.layers = sizes.blocks;
  config.ffn = sizes.ffn;
  config.hidden = sizes.hidden;
  config.vocabulary = sizes.tokens;
  return config;
}

/// config.json of a smaller model with those blocks: every size that changed, and the size of a head, which others are the fallback of.
nlohmann::json resize_json(const Model& model, const ModelConfig& after, const Indices& blocks) {
  nlohmann::json config = model.checkpoint().config;
  if (!model.config().windowed.empty() && !config.contains("layer_types")) {
    for (const bool holds : model.config().windowed) config["layer_types"].push_back(holds ? "sliding_attention" : "full_attention");
  }
  if (const auto types = config.find("layer_types"); types != config.end() && types->is_array() && static_cast<int64_t>(types->size()) == model.config().layers) {  // one entry for each block
    nlohmann::json left = nlohmann::json::array();
    for (int64_t block : blocks) left.push_back(types->at(static_cast<size_t>(block)));
    *types = std::move(left);
  }
  for (const ConfigRow& row : model.architecture().config) {
    const bool follows = row.count == &ModelConfig::head_dim || row.count == &ModelConfig::kv_heads || row.count == &ModelConfig::ffn;  // absent, they would follow another size
    if (row.count && (model.config().*row.count != after.*row.count || (follows && sizes_of(model.config()) != sizes_of(after)))) config[row.alias && config.contains(row.alias) ? row.alias : row.key] = after.*row.count;
  }
  return config;
}

/// Which elements along a dimension stay in a block; nothing when all do.
std::optional<Indices> find_kept(Dimension dimension, const Kept& kept, size_t block, const ModelConfig& config) {
  const auto all_or = [](const Indices& list) { return list.empty() ? std::nullopt : std::optional(list); };
  const auto add_heads = [&](Indices& columns, int64_t first, int64_t heads) {  // `heads` of each group
    const int64_t width = heads * config.head_dim;
    for (int64_t group : kept.kv_groups[block])
      for (int64_t c = 0; c < width; ++c) columns.push_back(first + group * width + c);
  };
  const int64_t shared = config.heads / config.kv_heads;
  Indices columns;
  switch (dimension) {
    case Dimension::hidden: return all_or(kept.hidden);
    case Dimension::vocabulary: return all_or(kept.tokens);
    case Dimension::context:
    case Dimension::token_width:
    case Dimension::experts:
    case Dimension::expert_ffn:
    case Dimension::shared_ffn:
    case Dimension::one:
    case Dimension::head: return std::nullopt;
    case Dimension::ffn: return kept.ffn.empty() ? std::nullopt : std::optional(kept.ffn[block]);
    case Dimension::gate_up_width: {
      if (kept.ffn.empty()) return std::nullopt;
      Indices both = kept.ffn[block];
      for (int64_t channel : kept.ffn[block]) both.push_back(config.ffn + channel);
      return both;
    }
    default: break;
  }
  if (kept.kv_groups.empty()) return std::nullopt;
  if (dimension == Dimension::query_key_value_width && config.fused_order == FusedOrder::groups) {
    add_heads(columns, 0, shared + 2);
    return columns;
  }
  if (dimension != Dimension::kv_width) add_heads(columns, 0, shared);
  if (dimension == Dimension::kv_width) add_heads(columns, 0, 1);
  if (dimension == Dimension::query_key_value_width) {
    add_heads(columns, config.query_width(), 1);
    add_heads(columns, config.query_width() + config.kv_width(), 1);
  }
  return columns;
}

Matrix take(ConstMatrixView from, const std::optional<Indices>& rows, const std::optional<Indices>& columns) {
  Matrix result(rows ? static_cast<int64_t>(rows->size()) : from.rows, columns ? static_cast<int64_t>(columns->size()) : from.cols);
  parallel_pieces(result.rows(), 64, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float* source = from.row(rows ? (*rows)[static_cast<size_t>(r)] : r);
      for (int64_t c = 0; c < result.cols(); ++c) result.row(r)[c] = source[columns ? (*columns)[static_cast<size_t>(c)] : c];
    }
  });
  return result;
}

/// The file's shape of a logical one.
Shape stored_shape(const PlacedTensor& placed, int64_t rows, int64_t cols) {
  if (is_vector(placed)) return {cols};
  return placed.tensor->transposed ? Shape{cols, rows} : Shape{rows, cols};
}

void cut_tensor(const PlacedTensor& placed, const std::optional<Indices>& rows, const std::optional<Indices>& columns) {
  if (!rows && !columns) return;
  StoredTensor& tensor = *placed.tensor;
  const auto* floats = find_floats(tensor);
  const bool is_unrounded = floats && floats->find_unrounded();
  Matrix values = take(read_matrix(tensor).view(), rows, columns);
  tensor.shape = stored_shape(placed, values.rows(), values.cols());
  tensor.form = is_unrounded ? FloatData(std::move(values)) : make_floats(tensor, values.view());
  tensor.moved = true;
}

/// The name of a block's tensor when the block gets another number.
std::string renumber(const std::string& name, int64_t from, int64_t to) {
  const std::string number = fmt::format(".{}.", from);
  const size_t at = name.find(number);
  return name.substr(0, at) + fmt::format(".{}.", to) + name.substr(at + number.size());
}

}  // namespace

Sizes sizes_of(const ModelConfig& config) { return {.blocks = config.layers, .kv_groups = config.kv_heads, .ffn = config.ffn, .hidden = config.hidden, .tokens = config.vocabulary}; }

void check_sizes(const Model& model, const Sizes& sizes, Problems& problems) {
  const Architecture& architecture = model.architecture();
  const ModelConfig &before = model.config(), after = resize(before, sizes);
  const auto key = [&](int64_t ModelConfig::* field) { return find_config_row(architecture, field)->key; };
  for (const auto& [what, from, to] : {std::tuple("blocks", before.layers, after.layers), {"key/value groups", before.kv_heads, after.kv_heads}, {"feed-forward channels", before.ffn, after.ffn}, {"hidden dimensions", before.hidden, after.hidden}, {"tokens", before.vocabulary, after.vocabulary}})
    if (to < 1 || to > from) problems.add(fmt::format("{} of {} {} would stay; expected 1 to {}", to, from, what, from));
  if (!problems.empty()) return;
  const bool states_head_size = find_config_row(architecture, &ModelConfig::head_dim) != nullptr;
  const auto say_head_size = [&](const std::string& change) { problems.add(fmt::format("config.json of {} has no field for the size of a head, which is {} / {}: {} cannot be said", architecture.model_type, key(&ModelConfig::hidden), key(&ModelConfig::heads), change)); };
  if (!states_head_size && after.heads != before.heads) say_head_size(fmt::format("{} of {} heads", after.heads, before.heads));
  if (!states_head_size && after.hidden != before.hidden) say_head_size(fmt::format("{} of {} hidden dimensions", after.hidden, before.hidden));
  if (after.ffn != before.ffn && before.experts > 0) problems.add(fmt::format("{} of {} feed-forward channels: {} {} of {} each have their own; only layers, heads and hidden dimensions can go", after.ffn, before.ffn, key(&ModelConfig::experts), before.experts, key(&ModelConfig::expert_ffn)));
  else if (after.ffn != before.ffn && !find_config_row(architecture, &ModelConfig::ffn)) problems.add(fmt::format("config.json of {} has no field for the size of the feed-forward, which is 4 · {}: {} of {} channels cannot be said", architecture.model_type, key(&ModelConfig::hidden), after.ffn, before.ffn));
  if (after.heads != before.heads && before.has_alibi()) problems.add(fmt::format("{} of {} heads: the positions that {} gives a head (ALiBi) go by how many there are", after.heads, before.heads, architecture.causal_class));
  if (after.heads != before.heads && has_norm_of_all_heads(architecture)) problems.add(fmt::format("{} of {} heads: {} takes the norm of all heads together", after.heads, before.heads, architecture.causal_class));
  if (after.hidden != before.hidden && architecture.scales_embedding) problems.add(fmt::format("{} of {} hidden dimensions: {} multiplies embeddings by the root of how many there are", after.hidden, before.hidden, architecture.causal_class));
  if (states_head_size && architecture.heads_divide_hidden && after.hidden % after.heads != 0) problems.add(fmt::format("{} {} would be no multiple of {} {}, and {} does not load that", key(&ModelConfig::hidden), after.hidden, key(&ModelConfig::heads), after.heads, architecture.causal_class));
}

Model cut_model(Model model, const Kept& kept) {
  const ModelConfig before = model.config();
  Indices blocks = kept.blocks;
  if (blocks.empty()) blocks = first_indices(before.layers);
  const Sizes sizes{.blocks = static_cast<int64_t>(blocks.size()),
                    .kv_groups = kept.kv_groups.empty() ? before.kv_heads : static_cast<int64_t>(kept.kv_groups[0].size()),
                    .ffn = kept.ffn.empty() ? before.ffn : static_cast<int64_t>(kept.ffn[0].size()),
                    .hidden = kept.hidden.empty() ? before.hidden : static_cast<int64_t>(kept.hidden.size()),
                    .tokens = kept.tokens.empty() ? before.vocabulary : static_cast<int64_t>(kept.tokens.size())};
  Origin origin = model.origin();
  origin.blocks.clear();
  for (int64_t block : blocks) origin.blocks.push_back(model.origin().blocks[static_cast<size_t>(block)]);
  if (!kept.tokens.empty()) {
    std::vector<int32_t> tokens;
    for (int64_t token : kept.tokens) tokens.push_back(origin.tokens.empty() ? static_cast<int32_t>(token) : origin.tokens[static_cast<size_t>(token)]);
    origin.tokens = std::move(tokens);
  }

  std::vector<StoredTensor> tensors;
  for (const PlacedTensor& placed : model.tensors()) {
    size_t number = 0;
    if (placed.block >= 0) {
      const auto found = std::ranges::find(blocks, placed.block);
      if (found == blocks.end()) continue;
      number = static_cast<size_t>(found - blocks.begin());
      placed.tensor->name = renumber(placed.tensor->name, placed.block, static_cast<int64_t>(number));
    }
    const auto out = find_kept(placed.row->out, kept, number, before);
    if (is_vector(placed)) cut_tensor(placed, std::nullopt, out);
    else cut_tensor(placed, out, find_kept(placed.row->in, kept, number, before));
    tensors.push_back(std::move(*placed.tensor));
  }
  nlohmann::json config = resize_json(model, resize(before, sizes), blocks);
  Checkpoint checkpoint = std::move(model.checkpoint());
  checkpoint.config = std::move(config);
  checkpoint.tensors = std::move(tensors);
  std::ranges::sort(checkpoint.tensors, {}, &StoredTensor::name);
  Model result = place_tensors(std::move(checkpoint), model.ignored_config_fields());
  result.set_origin(std::move(origin));
  return result;
}

Model outline_model(const Model& model, const Sizes& sizes) {
  const ModelConfig after = resize(model.config(), sizes);
  Checkpoint outline;
  outline.directory = model.checkpoint().directory;
  outline.config = resize_json(model, after, first_indices(after.layers));
  for (const PlacedTensor& placed : model.tensors()) {
    if (placed.block >= after.layers) continue;
    const StoredTensor& tensor = *placed.tensor;
    const int64_t rows = is_vector(placed) ? 1 : get_size(placed.row->out, after), cols = get_size(is_vector(placed) ? placed.row->out : placed.row->in, after);
    StoredTensor smaller{.name = tensor.name, .dtype = tensor.dtype, .shape = stored_shape(placed, rows, cols), .transposed = tensor.transposed, .pruned = tensor.pruned, .moved = tensor.moved};
    if (is_vector(placed)) {
      const Matrix values = read_matrix(tensor);
      smaller.form = make_floats(smaller, values.view().column_range(0, cols));
    }
    outline.tensors.push_back(std::move(smaller));
  }
  std::ranges::sort(outline.tensors, {}, &StoredTensor::name);
  return place_tensors(std::move(outline), model.ignored_config_fields());
}

}  // namespace llmc
