#include "model/attention.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "core/dtype.h"
#include "core/parallel.h"
#include "model/kernels.h"
#include "model/matmul.h"

namespace llmc {

namespace {

float rounded_to_bf16(float value) { return bf16_to_f32(f32_to_bf16(value)); }

}  // namespace

std::vector<float> alibi_slopes(int64_t heads) {
  int64_t power = 1;
  while (2 * power <= heads) power *= 2;
  std::vector<float> slopes;
  for (int64_t i = 0; i < heads; ++i) {
    const double exponent = i < power ? static_cast<double>(i + 1) / static_cast<double>(power) : static_cast<double>(2 * (i - power) + 1) / static_cast<double>(2 * power);
    slopes.push_back(static_cast<float>(std::exp2(-8 * exponent)));
  }
  return slopes;
}

std::vector<float> find_slopes(const ModelConfig& config) {
  if (!config.has_alibi()) return std::vector<float>(static_cast<size_t>(config.heads));
  std::vector<float> slopes = alibi_slopes(config.heads);
  if (config.positions == Positions::rounded_alibi)
    for (float& slope : slopes) slope = rounded_to_bf16(slope);
  return slopes;
}

void cap_values(float cap, std::span<float> values) {
  for (float& value : values) value = cap * std::tanh(value / cap);
}

void cap_values_back(float cap, std::span<const float> capped, std::span<float> d) {
  for (size_t i = 0; i < d.size(); ++i) d[i] *= 1 - capped[i] / cap * (capped[i] / cap);
}

void shape_scores(const ModelConfig& config, float slope, int64_t first, std::span<float> scores) {
  if (config.score_cap > 0) cap_values(static_cast<float>(config.score_cap), scores);
  if (slope == 0) return;
  if (config.positions == Positions::rounded_alibi) {  // transformers: slope and position, then their product, in bfloat16
    const auto scale = static_cast<float>(config.score_scale());
    for (size_t i = 0; i < scores.size(); ++i) scores[i] += scale * rounded_to_bf16(slope * rounded_to_bf16(static_cast<float>(first + static_cast<int64_t>(i))));
    return;
  }
  for (size_t i = 0; i < scores.size(); ++i) scores[i] -= slope * static_cast<float>(scores.size() - 1 - i);
}

KeyValueCache::KeyValueCache(const ModelConfig& config, int64_t sequences, int64_t capacity) : config_(config), sequences_(sequences), capacity_(capacity) {
  constexpr int64_t first_room = 1024;
  reserve(std::min(capacity, first_room));
}

void KeyValueCache::reserve(int64_t positions) {
  if (!values_.empty() && positions <= room()) return;
  const int64_t next = std::min(capacity_, std::max(positions, 2 * room()));
  Matrix keys_then = std::move(keys_), values_then = std::move(values_);
  keys_ = Matrix(sequences_ * config_.kv_width(), (next + key_step - 1) / key_step * key_step);
  values_ = Matrix(sequences_ * next, config_.kv_width());
  for (int64_t row = 0; row < keys_then.rows(); ++row) std::copy_n(keys_then.row(row), length_, keys_.row(row));
  const int64_t room_then = values_then.rows() / sequences_;
  for (int64_t s = 0; s < sequences_; ++s) std::copy_n(values_then.row(s * room_then), length_ * values_then.cols(), values_.row(s * next));
}

void KeyValueCache::fill(ConstMatrixView k, ConstMatrixView v) {
  assert(length_ == 0 && k.rows == v.rows && k.rows <= capacity_);
  reserve(k.rows);
  parallel_for(sequences_, [&](int64_t s) {
    const MatrixView keys_of = keys(s), values_of = values(s);
    for (int64_t r = 0; r < k.rows; ++r) {
      for (int64_t i = 0; i < config_.kv_width(); ++i) keys_of.row(i)[r] = k.row(r)[i];
      std::ranges::copy(v.row_span(r), values_of.row(r));
    }
  });
  length_ = k.rows;
}

void KeyValueCache::attend_next(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, MatrixView out) {
  assert(length_ < capacity_ && q.rows == sequences_ && k.rows == sequences_ && v.rows == sequences_ && out.rows == sequences_);
  reserve(length_ + 1);
  const int64_t width = config_.head_dim, group = config_.heads / config_.kv_heads;
  const int64_t first = config_.first_seen(length_), seen = length_ + 1, padded = (seen + key_step - 1) / key_step * key_step;  // the keys between are 0
  const auto scale = static_cast<float>(config_.score_scale());
  const std::vector<float> slopes = find_slopes(config_);
  parallel_for(sequences_, [&](int64_t s) {
    const MatrixView keys_of = keys(s), values_of = values(s);
    for (int64_t i = 0; i < config_.kv_width(); ++i) keys_of.row(i)[length_] = k.row(s)[i];
    std::ranges::copy(v.row_span(s), values_of.row(length_));
    for (int64_t head = 0; head < config_.heads; ++head) {
      const int64_t from = head / group * width;
      const std::span<float> query = thread_scratch<float, 3>(static_cast<size_t>(width)), scores = thread_scratch<float, 2>(static_cast<size_t>(padded));
      for (int64_t i = 0; i < width; ++i) query[static_cast<size_t>(i)] = scale * q.row(s)[head * width + i];
      multiply_row(query, keys_of.row_range(from, width).column_range(0, padded), scores);
      const std::span<float> weights = scores.subspan(static_cast<size_t>(first), static_cast<size_t>(seen - first));
      shape_scores(config_, slopes[static_cast<size_t>(head)], first, weights);
      softmax(weights);
      multiply_row(weights, values_of.row_range(first, seen - first).column_range(from, width), out.row_span(s).subspan(static_cast<size_t>(head * width), static_cast<size_t>(width)));
    }
  });
  ++length_;
}

int64_t first_key(const ModelConfig& config, int64_t first) { return config.first_seen(first) / attention_tile * attention_tile; }

void attend(const ModelConfig& config, MatmulBackend backend, Precision precision, int64_t length, ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, MatrixView out) {
  constexpr int64_t tile = attention_tile;
  const int64_t width = config.head_dim;
  const int64_t group = config.heads / config.kv_heads;
  const int64_t tiles = q.rows / tile;
  const auto scale = static_cast<float>(config.score_scale());
  const std::vector<float> slopes = find_slopes(config);
  assert(q.rows == tiles * tile && k.rows == q.rows && v.rows == q.rows && out.rows == q.rows && length <= q.rows);
  assert(q.cols == config.query_width() && k.cols == config.kv_width() && v.cols == config.kv_width() && out.cols == q.cols);
  const auto of_head = [&](auto rows, int64_t number) { return rows.column_range(number * width, width); };
  std::vector<std::unique_ptr<PackedFactor>> keys_of(static_cast<size_t>(config.kv_heads)), values_of(keys_of.size());
  for (int64_t head = 0; head < config.kv_heads; ++head) {  // on this thread, which gives their memory back
    keys_of[static_cast<size_t>(head)] = pack_factor(backend, precision, of_head(k, head), Transpose::yes);
    values_of[static_cast<size_t>(head)] = pack_factor(backend, precision, of_head(v, head), Transpose::no);
  }
  parallel_for(config.kv_heads, [&](int64_t head) {
    keys_of[static_cast<size_t>(head)]->pack();
    values_of[static_cast<size_t>(head)]->pack();
  });
  parallel_for(config.heads * tiles, [&](int64_t index) {
    const int64_t head = index / tiles;
    const int64_t first = index % tiles * tile;
    const int64_t from = first_key(config, first), keys = first + tile - from;  // a query sees no key after itself
    // The scores of one tile are all that is kept of [T, T].
    const MatrixView scores{thread_scratch<float, 2>(static_cast<size_t>(tile * keys)).data(), tile, keys, keys};
    keys_of[static_cast<size_t>(head / group)]->multiply(scale, of_head(q, head).row_range(first, tile), 0, from, scores);
    for (int64_t r = 0; r < std::min(tile, length - first); ++r) {
      const std::span<float> row = scores.row_span(r);
      const auto begin = static_cast<size_t>(config.first_seen(first + r) - from), end = static_cast<size_t>(first + r + 1 - from);
      shape_scores(config, slopes[static_cast<size_t>(head)], from + static_cast<int64_t>(begin), row.subspan(begin, end - begin));
      softmax(row.subspan(begin, end - begin));
      std::ranges::fill(row.first(begin), 0.0f);
      std::ranges::fill(row.subspan(end), 0.0f);
    }
    values_of[static_cast<size_t>(head / group)]->multiply(1.0f, scores, from, 0, of_head(out, head).row_range(first, tile));
  });
}

}  // namespace llmc
