#include "model/fold_sites.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace llmc {
namespace {

StoredTensor* find_tensor(Model& model, Role role, int64_t block, Part part) {
  const auto is_wanted = [&](const PlacedTensor& placed) { return placed.row->role == role && placed.block == block && placed.part == part; };
  const auto found = std::ranges::find_if(model.tensors(), is_wanted);
  return found == model.tensors().end() ? nullptr : found->tensor;
}

std::vector<int64_t> one_to_one(int64_t channels) {
  std::vector<int64_t> channel_of(static_cast<size_t>(channels));
  std::iota(channel_of.begin(), channel_of.end(), int64_t{0});
  return channel_of;
}

/// A column of attention_output belongs to a query head, and reads the value head that its group of query heads shares.
std::vector<int64_t> value_channels(const ModelConfig& config) {
  std::vector<int64_t> channel_of;
  const int64_t shared_by = config.heads / config.kv_heads;
  for (int64_t head = 0; head < config.heads; ++head)
    for (int64_t i = 0; i < config.head_dim; ++i) channel_of.push_back(head / shared_by * config.head_dim + i);
  return channel_of;
}

bool is_float(const StoredTensor* tensor) { return !tensor || std::holds_alternative<FloatData>(tensor->form); }

void set_unrounded(StoredTensor& tensor, Matrix values) {
  tensor.form = FloatData(std::move(values));
  tensor.moved = true;
}

void divide_rows(StoredTensor& tensor, int64_t first, std::span<const float> scales) {
  Matrix values = read_matrix(tensor);
  for (size_t j = 0; j < scales.size(); ++j)
    for (float& value : values.view().row_span(first + static_cast<int64_t>(j))) value /= scales[j];
  set_unrounded(tensor, std::move(values));
}

/// A bias: one row of a value per channel.
void divide_vector(StoredTensor& tensor, int64_t first, std::span<const float> scales) {
  Matrix values = read_matrix(tensor);
  for (size_t j = 0; j < scales.size(); ++j) values.values()[static_cast<size_t>(first) + j] /= scales[j];
  set_unrounded(tensor, std::move(values));
}

/// Divides a norm's weight by the scales as well as its dtype can, and makes them those that it did divide by.
void divide_norm(StoredTensor& weight, std::span<float> scales) {
  Matrix values = read_matrix(weight);
  for (size_t j = 0; j < scales.size(); ++j) {
    const float before = values.values()[j];
    if (before == 0) continue;  // the channel is nothing but its bias, whatever the scale
    const float after = round_to(weight.dtype, before / scales[j]);
    const float scale = before / after;
    const bool is_sound = std::isnormal(after) && std::isnormal(scale);
    scales[j] = is_sound ? scale : 1;
    if (is_sound) values.values()[j] = after;
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
  const bool is_fused = model.find(Role::query_key_value, block) != nullptr;
  const bool is_gated = config.feed_forward == FeedForward::gated;
  std::vector<FoldSite> sites;
  sites.push_back({.block = block,
                   .producer = Role::attention_norm,
                   .consumers = is_fused ? std::vector{Role::query_key_value} : std::vector{Role::query, Role::key, Role::value},
                   .channels = config.hidden,
                   .channel_of = one_to_one(config.hidden)});
  sites.push_back({.block = block,
                   .producer = is_fused ? Role::query_key_value : Role::value,
                   .consumers = {Role::attention_output},
                   .first_channel = is_fused ? config.query_width() + config.kv_width() : 0,
                   .channels = config.kv_width(),
                   .channel_of = value_channels(config)});
  sites.push_back({.block = block, .producer = Role::ffn_norm, .consumers = is_gated ? std::vector{Role::ffn_gate, Role::ffn_up} : std::vector{Role::ffn_up}, .channels = config.hidden, .channel_of = one_to_one(config.hidden)});
  if (is_gated || config.activation == Activation::relu)  // relu(x / s) = relu(x) / s
    sites.push_back({.block = block, .producer = Role::ffn_up, .consumers = {Role::ffn_down}, .channels = config.ffn, .channel_of = one_to_one(config.ffn)});
  std::erase_if(sites, [&](const FoldSite& site) {
    const bool consumers_float = std::ranges::all_of(site.consumers, [&](Role role) { return is_float(model.find(role, block)); });
    return !consumers_float || !is_float(model.find(site.producer, block)) || !is_float(model.find(site.producer, block, Part::bias));
  });
  return sites;
}

std::vector<float> scale_channels(Model& model, const FoldSite& site, std::span<const float> scales) {
  assert(static_cast<int64_t>(scales.size()) == site.channels);
  for (float scale : scales)
    if (!(scale > 0 && std::isfinite(scale))) throw Error(ErrorKind::bug, fmt::format("{}: a scale is {}; expected a positive finite one", to_string(site), scale));
  std::vector<float> effective(scales.begin(), scales.end());
  StoredTensor& weight = *find_tensor(model, site.producer, site.block, Part::weight);
  if (site.producer == Role::attention_norm || site.producer == Role::ffn_norm) divide_norm(weight, effective);
  else divide_rows(weight, site.first_channel, effective);
  if (StoredTensor* bias = find_tensor(model, site.producer, site.block, Part::bias)) divide_vector(*bias, site.first_channel, effective);
  for (Role role : site.consumers) multiply_columns(*find_tensor(model, role, site.block, Part::weight), site.channel_of, effective);
  return effective;
}

}  // namespace llmc
