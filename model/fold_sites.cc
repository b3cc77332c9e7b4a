#include "model/fold_sites.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace llmc {
namespace {

/// One, or none, or one of each expert.
std::vector<StoredTensor*> find_tensors(const Model& model, Role role, int64_t block, Part part) {
  std::vector<StoredTensor*> found;
  for (const PlacedTensor& placed : model.tensors())
    if (placed.row->role == role && placed.block == block && placed.part == part) found.push_back(placed.tensor);
  return found;
}

std::vector<int64_t> one_to_one(int64_t channels) {
  std::vector<int64_t> channel_of(static_cast<size_t>(channels));
  std::iota(channel_of.begin(), channel_of.end(), int64_t{0});
  return channel_of;
}

/// The rows that make the channels of all value heads.
std::vector<int64_t> value_rows(const ModelConfig& config, bool is_fused) {
  if (!is_fused) return one_to_one(config.kv_width());
  std::vector<int64_t> rows;
  for (int64_t head = 0; head < config.kv_heads; ++head)
    for (int64_t i = 0; i < config.head_dim; ++i) rows.push_back(config.fused_value(head) + i);
  return rows;
}

/// A column of attention_output belongs to a query head, and reads the value head that its group of query heads shares.
std::vector<int64_t> value_channels(const ModelConfig& config) {
  std::vector<int64_t> channel_of;
  const int64_t shared_by = config.heads / config.kv_heads;
  for (int64_t head = 0; head < config.heads; ++head)
    for (int64_t i = 0; i < config.head_dim; ++i) channel_of.push_back(head / shared_by * config.head_dim + i);
  return channel_of;
}

bool are_float(const std::vector<StoredTensor*>& tensors) {
  return std::ranges::all_of(tensors, [](const StoredTensor* tensor) { return std::holds_alternative<FloatData>(tensor->form); });
}

void set_unrounded(StoredTensor& tensor, Matrix values) {
  tensor.form = FloatData(std::move(values));
  tensor.moved = true;
}

void divide_rows(StoredTensor& tensor, const std::vector<int64_t>& rows, std::span<const float> scales) {
  Matrix values = read_matrix(tensor);
  for (size_t j = 0; j < scales.size(); ++j)
    for (float& value : values.view().row_span(rows[j])) value /= scales[j];
  set_unrounded(tensor, std::move(values));
}

/// A bias: one row of a value per channel.
void divide_vector(StoredTensor& tensor, const std::vector<int64_t>& rows, std::span<const float> scales) {
  Matrix values = read_matrix(tensor);
  for (size_t j = 0; j < scales.size(); ++j) values.values()[static_cast<size_t>(rows[j])] /= scales[j];
  set_unrounded(tensor, std::move(values));
}

/// Divides a norm's weight, with the offset that is added to it, by the scales as well as its dtype can, and makes them those that it
/// did divide by.
void divide_norm(StoredTensor& weight, float offset, std::span<float> scales) {
  Matrix values = read_matrix(weight);
  for (size_t j = 0; j < scales.size(); ++j) {
    const float before = values.values()[j] + offset;
    if (before == 0) continue;  // the channel is nothing but its bias, whatever the scale
    const float stored = round_to(weight.dtype, before / scales[j] - offset), after = stored + offset;
    const float scale = before / after;
    const bool is_sound = std::isnormal(after) && std::isnormal(scale) && scale > 0;
    scales[j] = is_sound ? scale : 1;
    if (is_sound) values.values()[j] = stored;
  }
  weight.form = make_floats(weight, values.view());
  weight.moved = true;
}

void multiply_columns(StoredTensor& tensor, const std::vector<int64_t>& channel_of, std::span<const float> scales) {
  Matrix values = read_matrix(tensor);
  assert(values.cols() == static_cast<int64_t>(channel_of.size()));
  for (int64_t r = 0; r < values.rows(); ++r) {
    float* row = values.row(r);
    for (size_t c = 0; c < channel_of.size(); ++c) row[c] *= scales[static_cast<size_t>(channel_of[c])];
  }
  set_unrounded(tensor, std::move(values));
}

}  // namespace

std::string to_string(const FoldSite& site) {
  std::string consumers;
  for (Role role : site.consumers) consumers += fmt::format("{}{}", consumers.empty() ? "" : ", ", to_string(role));
  return fmt::format("block {}: {} → {}", site.block, to_string(site.producer), consumers);
}

std::vector<FoldSite> find_fold_sites(const Model& model, int64_t block) {
  const ModelConfig& config = model.config();
  const bool is_fused = model.find(Role::query_key_value, block) != nullptr, has_gate_up = model.find(Role::ffn_gate_up, block) != nullptr;
  const bool is_gated = config.feed_forward == FeedForward::gated;
  std::vector<FoldSite> sites;
  const auto add_norm = [&](Role norm, std::vector<Role> consumers) {
    if (model.find(norm, block)) sites.push_back({.block = block, .producer = norm, .consumers = std::move(consumers), .rows = one_to_one(config.hidden), .channels = config.hidden, .channel_of = one_to_one(config.hidden)});
  };
  const bool is_shared = config.parallel && !model.find(Role::ffn_norm, block);  // read by the feed-forward as well, whose inputs are another tap
  if (!is_shared) add_norm(Role::attention_norm, is_fused ? std::vector{Role::query_key_value} : std::vector{Role::query, Role::key, Role::value});
  sites.push_back({.block = block, .producer = is_fused ? Role::query_key_value : Role::value, .consumers = {Role::attention_output}, .rows = value_rows(config, is_fused), .channels = config.kv_width(), .channel_of = value_channels(config)});
  if (config.experts > 0 && config.shared_ffn > 0) add_norm(Role::ffn_norm, {Role::expert_gate, Role::expert_up, Role::shared_gate, Role::shared_up, Role::router, Role::shared_router});
  else if (config.experts > 0) add_norm(Role::ffn_norm, {Role::expert_gate, Role::expert_up, Role::router});
  else add_norm(Role::ffn_norm, has_gate_up ? std::vector{Role::ffn_gate_up} : is_gated ? std::vector{Role::ffn_gate, Role::ffn_up} : std::vector{Role::ffn_up});
  if (config.experts == 0 && (is_gated || config.activation == Activation::relu)) {  // relu(x / s) = relu(x) / s
    std::vector<int64_t> rows = one_to_one(config.ffn);
    if (has_gate_up)
      for (int64_t& row : rows) row += config.ffn;
    sites.push_back({.block = block, .producer = has_gate_up ? Role::ffn_gate_up : Role::ffn_up, .consumers = {Role::ffn_down}, .rows = std::move(rows), .channels = config.ffn, .channel_of = one_to_one(config.ffn)});
  }
  std::erase_if(sites, [&](const FoldSite& site) {
    const bool consumers_float = std::ranges::all_of(site.consumers, [&](Role role) { return are_float(find_tensors(model, role, block, Part::weight)); });
    return !consumers_float || !are_float(find_tensors(model, site.producer, block, Part::weight)) || !are_float(find_tensors(model, site.producer, block, Part::bias));
  });
  return sites;
}

std::vector<float> scale_channels(Model& model, const FoldSite& site, std::span<const float> scales) {
  assert(static_cast<int64_t>(scales.size()) == site.channels);
  for (float scale : scales)
    if (!(scale > 0 && std::isfinite(scale))) throw Error(ErrorKind::bug, fmt::format("{}: a scale is {}; expected a positive finite one", to_string(site), scale));
  std::vector<float> effective(scales.begin(), scales.end());
  StoredTensor& weight = *find_tensors(model, site.producer, site.block, Part::weight).front();
  if (site.producer == Role::attention_norm || site.producer == Role::ffn_norm) divide_norm(weight, static_cast<float>(model.config().norm_offset), effective);
  else divide_rows(weight, site.rows, effective);
  for (StoredTensor* bias : find_tensors(model, site.producer, site.block, Part::bias)) divide_vector(*bias, site.rows, effective);
  for (Role role : site.consumers)
    for (StoredTensor* consumer : find_tensors(model, role, site.block, Part::weight)) multiply_columns(*consumer, site.channel_of, effective);
  return effective;
}

}  // namespace llmc
