#include "verify/oracle.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "verify/oracle_rope.h"

namespace llmc {
namespace {

using Rows = std::vector<std::vector<double>>;  ///< [T][width]

std::vector<double> read_vector(const StoredTensor* tensor) {
  if (!tensor) return {};
  const Matrix values = read_matrix(*tensor);
  return {values.values().begin(), values.values().end()};
}

/// Rounds to the 8-bit floats E4M3 (Micikevicius 2022), as multiples of 2^-3 of the power of two below, or of 2^-6.
double to_e4m3(double value) {
  const double step = std::exp2(std::max(value == 0 ? -6.0 : std::floor(std::log2(std::abs(value))), -6.0) - 3);
  return std::clamp(std::nearbyint(value / step) * step, -448.0, 448.0);
}

/// Rounds the values to 2^bits steps and back. Without a given grid it is that of their range: symmetric with the scale
/// max|x| / ((2^b − 1) / 2), linear with (max − min) / (2^b − 1) over a range that holds 0.
void round_to_grid(const ActivationScheme& scheme, const InputGrid* given, std::span<double> values) {
  const double lowest = -std::exp2(scheme.bits - 1), highest = -lowest - 1, steps = highest - lowest;
  double low = 0, high = 0;
  for (double v : values) low = std::min(low, v), high = std::max(high, v);
  double scale = scheme.mapping == Mapping::symmetric ? std::max(-low, high) * 2 / steps : (high - low) / steps;
  double zero = scheme.mapping == Mapping::symmetric || scale == 0 ? 0 : std::nearbyint(std::clamp(lowest - low / scale, lowest, highest));
  if (scheme.is_float) scale = std::max(-low, high) / 448;
  if (given) scale = double{given->scale}, zero = given->zero_point;
  if (scale == 0) return;  // nothing but zeros
  if (scheme.is_float) {
    for (double& v : values) v = std::isfinite(v) ? to_e4m3(v / scale) * scale : NAN;
    return;
  }
  for (double& v : values) v = std::isfinite(v) ? (std::nearbyint(std::clamp(v / scale + zero, lowest, highest)) - zero) * scale : NAN;
}

double keep_14_bits(double value) {
  int exponent = 0;
  const double mantissa = std::frexp(value, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(mantissa, 14)), exponent - 14);
}

class Oracle {
 public:
  Oracle(const Model& model, const OracleOptions& options) : model_(model), config_(model.config()), options_(options) {}

  std::vector<double> run(std::span<const int32_t> tokens) const {
    Rows x = embed(tokens);
    for (int64_t block = 0; block < config_.layers; ++block) {
      const Rows before = x;
      join(x, attention(normalize(x, Role::attention_norm, block), block), Role::attention_output_norm, block);
      // Side by side both read the same; with a single norm in front of the two, what it gives.
      const bool one_norm = config_.parallel && !model_.find(Role::ffn_norm, block);
      join(x, feed_forward(normalize(config_.parallel ? before : x, one_norm ? Role::attention_norm : Role::ffn_norm, block), block), Role::ffn_output_norm, block);
      model_.checkpoint().release_pages();
    }
    std::vector<double> logits;
    Rows last = normalize(x, Role::final_norm, -1);
    if (model_.find(Role::head_projection)) last = linear(std::move(last), Role::head_projection, -1);
    for (const auto& row : linear(std::move(last), Role::output_head, -1))
      for (double value : row) logits.push_back(cap(value, config_.logit_cap));
    return logits;
  }

 private:
  Rows embed(std::span<const int32_t> tokens) const {
    const TensorRows table(model_.get(Role::token_embedding));
    std::vector<float> values(static_cast<size_t>(table.cols()));
    Rows x;
    for (int32_t token : tokens) {
      table.read(token, values);
      x.emplace_back(values.begin(), values.end());
    }
    for (auto& row : x)
      for (double& value : row) value *= config_.embedding_scale;
    if (model_.find(Role::embedding_projection)) x = linear(std::move(x), Role::embedding_projection, -1);
    if (config_.positions == Positions::learned) {
      const Matrix positions = read_matrix(model_.get(Role::position_embedding));
      for (size_t t = 0; t < x.size(); ++t)
        for (size_t i = 0; i < x[t].size(); ++i) x[t][i] += positions.row(static_cast<int64_t>(t) + config_.position_offset)[i];
    }
    return normalize(x, Role::embedding_norm, -1);
  }

  /// Bounded to ± limit (Gemma 2, section 2); 0 is no limit.
  static double cap(double value, double limit) { return limit > 0 ? limit * std::tanh(value / limit) : value; }

  /// What ALiBi takes from a score for each position between key and query (Press 2021, section 3).
  double slope(int64_t head) const {
    const auto n = static_cast<double>(config_.heads), whole = std::exp2(std::floor(std::log2(n))), h = static_cast<double>(head);
    return h < whole ? std::exp2(-8 * (h + 1) / whole) : std::exp2(-4 * (2 * (h - whole) + 1) / whole);
  }

  static double to_bfloat16(double value) {
    int exponent = 0;
    const double mantissa = std::frexp(value, &exponent);
    return std::ldexp(std::nearbyint(std::ldexp(mantissa, 8)), exponent - 8);
  }

  /// What ALiBi adds to the score of a key. Falcon's counts from the start of the sequence, which for the softmax is the same but for its
  /// rounding to bfloat16, and is added before scores are divided.
  double position_score(int64_t head, size_t key, size_t query) const {
    switch (config_.positions) {
      case Positions::alibi: return -slope(head) * static_cast<double>(query - key);
      case Positions::rounded_alibi: return to_bfloat16(to_bfloat16(slope(head)) * to_bfloat16(static_cast<double>(key))) / std::sqrt(static_cast<double>(config_.head_dim));
      default: return 0;
    }
  }

  /// What a sublayer gives joins the stream: its norm, if there is one, is of the change or of the sum.
  void join(Rows& x, Rows change, Role norm, int64_t block) const {
    add(x, config_.norms_before_sum ? normalize(std::move(change), norm, block) : change);
    if (!config_.norms_before_sum) x = normalize(std::move(x), norm, block);
  }

  static void add(Rows& x, const Rows& y) {
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t i = 0; i < x[t].size(); ++i) x[t][i] += y[t][i];
  }

  /// Rows as wide as the norm, or several times as wide: then each such piece, which is a head, by itself. As they are where the
  /// model has no such norm.
  Rows normalize(Rows x, Role role, int64_t block) const {
    if (!model_.find(role, block)) return x;
    std::vector<double> weight = read_vector(&model_.get(role, block));
    for (double& value : weight) value += config_.norm_offset;
    const std::vector<double> bias = read_vector(model_.find(role, block, Part::bias));
    for (auto& row : x)
      for (size_t at = 0; at < row.size(); at += weight.size()) normalize_piece(std::span(row).subspan(at, weight.size()), weight, bias);
    return x;
  }

  /// By one norm, each head by itself or all together, or by a norm for each; or not at all.
  void normalize_heads(Rows& rows, Role role, int64_t block) const {
    if (!model_.find(role, block, Part::weight, 0)) {
      rows = normalize(std::move(rows), role, block);
      return;
    }
    const auto width = static_cast<size_t>(config_.head_dim);
    for (auto& row : rows)
      for (size_t head = 0; head < row.size() / width; ++head) normalize_piece(std::span(row).subspan(head * width, width), read_vector(&model_.get(role, block, Part::weight, static_cast<int64_t>(head))), {});
  }

  void normalize_piece(std::span<double> values, const std::vector<double>& weight, const std::vector<double>& bias) const {
    double mean = 0;
    if (config_.norm == Norm::layer) {
      for (double v : values) mean += v;
      mean /= static_cast<double>(values.size());
    }
    double square = 0;
    for (double v : values) square += (v - mean) * (v - mean);
    const double scale = 1 / std::sqrt(square / static_cast<double>(values.size()) + config_.norm_epsilon);
    for (size_t i = 0; i < values.size(); ++i) values[i] = (values[i] - mean) * scale * weight[i] + (bias.empty() ? 0 : bias[i]);
  }

  Rows linear(Rows x, Role role, int64_t block, int64_t expert = -1) const {
    const StoredTensor& tensor = model_.get(role, block, Part::weight, expert);
    const auto input = find_input_quantization(tensor);
    for (auto& row : x) {
      if (options_.inputs == OracleOptions::Inputs::rounded)
        for (double& v : row) v = keep_14_bits(v);
      if (input) round_to_grid(input->scheme, input->scheme.range == InputRange::calibrated ? &input->grid : nullptr, row);
    }
    const TensorRows weight(tensor);
    const std::vector<double> bias = read_vector(model_.find(role, block, Part::bias, expert));
    Rows y(x.size(), std::vector<double>(static_cast<size_t>(weight.rows())));
    std::vector<float> w(static_cast<size_t>(weight.cols()));
    for (int64_t o = 0; o < weight.rows(); ++o) {
      weight.read(o, w);
      const auto at = static_cast<size_t>(o);
      for (size_t t = 0; t < x.size(); ++t) {
        double sum = bias.empty() ? 0 : bias[at];
        for (size_t i = 0; i < w.size(); ++i) sum += x[t][i] * w[i];
        y[t][at] = sum;
      }
    }
    return y;
  }

  /// Query, key and value rows, from three matrices or from one.
  void project(const Rows& x, int64_t block, Rows& q, Rows& k, Rows& v) const {
    if (!model_.find(Role::query_key_value, block)) {
      q = linear(x, Role::query, block);
      k = linear(x, Role::key, block);
      v = linear(x, Role::value, block);
      return;
    }
    const bool is_grouped = config_.fused_order == FusedOrder::groups;
    for (const auto& row : linear(x, Role::query_key_value, block)) {
      if (is_grouped) {  // [group][its queries, its key, its value][head size]
        const int64_t shared = config_.heads / config_.kv_heads, d = config_.head_dim;
        q.emplace_back(), k.emplace_back(), v.emplace_back();
        auto at = row.begin();
        const auto take = [&](std::vector<double>& to, int64_t count) { to.insert(to.end(), at, at + count), at += count; };
        for (int64_t group = 0; group < config_.kv_heads; ++group) take(q.back(), shared * d), take(k.back(), d), take(v.back(), d);
        continue;
      }
      const auto keys = row.begin() + config_.query_width();
      const auto values = keys + config_.kv_width();
      q.emplace_back(row.begin(), keys);
      k.emplace_back(keys, values);
      v.emplace_back(values, row.end());
    }
  }

  /// Rotates pairs (i, i + half) of the rotated part of every head by position · frequency (Su 2021, in the half-split order of Hugging Face).
  void rotate(Rows& rows, int64_t heads, const Rope& rope) const {
    const std::vector<float> frequencies = oracle_rope_frequencies(rope, static_cast<int64_t>(rows.size()));
    const size_t half = frequencies.size();
    for (size_t t = 0; t < rows.size(); ++t)
      for (int64_t head = 0; head < heads; ++head)
        for (size_t i = 0; i < half; ++i) {
          const float angle = static_cast<float>(t) * frequencies[i];
          const double c = rope.magnitude * std::cos(static_cast<double>(angle)), s = rope.magnitude * std::sin(static_cast<double>(angle));
          double& a = rows[t][static_cast<size_t>(head * config_.head_dim) + i];
          double& b = rows[t][static_cast<size_t>(head * config_.head_dim) + i + half];
          const double first = a, second = b;
          a = first * c - second * s;
          b = second * c + first * s;
        }
  }

  /// Keys or values as a cache gives them back: each head in equal spans of at most 64 values with a linear grid each.
  void store_in_cache(Rows& rows) const {
    const int64_t spans = (config_.head_dim + 63) / 64, span = (config_.head_dim + spans - 1) / spans;
    for (auto& row : rows)
      for (int64_t head = 0; head < config_.kv_heads; ++head)
        for (int64_t start = 0; start < config_.head_dim; start += span)
          round_to_grid({.bits = *options_.kv_cache_bits, .mapping = Mapping::linear}, nullptr, std::span(row).subspan(static_cast<size_t>(head * config_.head_dim + start), static_cast<size_t>(std::min(span, config_.head_dim - start))));
  }

  Rows attention(const Rows& x, int64_t block) const {
    const bool sees_window = config_.windowed.empty() || config_.windowed[static_cast<size_t>(block)];
    const Rope& rope = sees_window ? config_.window_rope : config_.rope;
    const int64_t window = sees_window ? config_.window : 0;
    Rows q, k, v;
    project(x, block, q, k, v);
    normalize_heads(q, Role::query_norm, block);
    normalize_heads(k, Role::key_norm, block);
    if (config_.positions == Positions::rope) rotate(q, config_.heads, rope), rotate(k, config_.kv_heads, rope);
    if (options_.kv_cache_bits) store_in_cache(k), store_in_cache(v);
    const auto width = static_cast<size_t>(config_.head_dim);
    const double scale = 1 / std::sqrt(config_.score_divisor > 0 ? config_.score_divisor : static_cast<double>(config_.head_dim));
    Rows mixed(x.size(), std::vector<double>(static_cast<size_t>(config_.query_width())));
    for (int64_t head = 0; head < config_.heads; ++head) {
      const size_t at = static_cast<size_t>(head) * width;
      const size_t kv_at = static_cast<size_t>(head / (config_.heads / config_.kv_heads)) * width;
      for (size_t t = 0; t < x.size(); ++t) {
        const size_t past = window > 0 && t + 1 > static_cast<size_t>(window) ? t + 1 - static_cast<size_t>(window) : 0;  // out of the window
        std::vector<double> weights(t + 1);
        double highest = -INFINITY;
        for (size_t s = past; s <= t; ++s) {
          for (size_t i = 0; i < width; ++i) weights[s] += q[t][at + i] * k[s][kv_at + i];
          weights[s] = cap(weights[s] * scale, config_.score_cap) + position_score(head, s, t);
          highest = std::max(highest, weights[s]);
        }
        double sum = 0;
        for (size_t s = past; s <= t; ++s) sum += weights[s] = std::exp(weights[s] - highest);
        for (size_t s = past; s <= t; ++s)
          for (size_t i = 0; i < width; ++i) mixed[t][at + i] += weights[s] / sum * v[s][kv_at + i];
      }
    }
    return linear(mixed, Role::attention_output, block);
  }

  double activate(double x) const {
    switch (config_.activation) {
      case Activation::silu: return x / (1 + std::exp(-x));
      case Activation::gelu: return 0.5 * x * (1 + std::erf(x / std::numbers::sqrt2));
      case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
      case Activation::relu: return std::max(x, 0.0);
    }
    return x;
  }

  /// down(activate(gate(x)) · up(x)), of an expert or of the one that all tokens go through (−1).
  Rows expert(const Rows& x, int64_t block, int64_t number) const {
    const bool is_shared = number < 0;
    const Rows gate = linear(x, is_shared ? Role::shared_gate : Role::expert_gate, block, number);
    Rows up = linear(x, is_shared ? Role::shared_up : Role::expert_up, block, number);
    for (size_t t = 0; t < up.size(); ++t)
      for (size_t i = 0; i < up[t].size(); ++i) up[t][i] *= activate(gate[t][i]);
    return linear(up, is_shared ? Role::shared_down : Role::expert_down, block, number);
  }

  /// What every expert counts for, of softmax probabilities: 0 for all but the most probable ones (Shazeer 2017, section 2.1).
  std::vector<double> shares(std::vector<double> logits) const {
    const double highest = *std::ranges::max_element(logits);
    double sum = 0;
    for (double& value : logits) sum += value = std::exp(value - highest);
    std::vector<double> result(logits.size());
    double kept = 0;
    for (int64_t i = 0; i < config_.experts_per_token; ++i) {
      const auto best = std::ranges::max_element(logits);
      kept += result[static_cast<size_t>(best - logits.begin())] = *best / sum;
      *best = -1;
    }
    for (double& value : result) value /= config_.normalizes_routing ? kept : 1;
    return result;
  }

  /// The sum of what a token's experts make of it, each times what it counts for, and of what the shared one does.
  Rows mix_experts(const Rows& x, int64_t block) const {
    Rows sum(x.size(), std::vector<double>(static_cast<size_t>(config_.hidden)));
    std::vector<std::vector<double>> share;
    for (const auto& logits : linear(x, Role::router, block)) share.push_back(shares(logits));
    for (int64_t number = 0; number < config_.experts; ++number) {
      Rows routed;
      std::vector<size_t> tokens;
      for (size_t t = 0; t < x.size(); ++t)
        if (share[t][static_cast<size_t>(number)] > 0) routed.push_back(x[t]), tokens.push_back(t);
      const Rows made = expert(routed, block, number);
      for (size_t i = 0; i < tokens.size(); ++i)
        for (size_t c = 0; c < made[i].size(); ++c) sum[tokens[i]][c] += share[tokens[i]][static_cast<size_t>(number)] * made[i][c];
    }
    if (config_.shared_ffn == 0) return sum;
    const Rows gate = linear(x, Role::shared_router, block);
    Rows made = expert(x, block, -1);
    for (size_t t = 0; t < made.size(); ++t)
      for (double& value : made[t]) value /= 1 + std::exp(-gate[t][0]);
    add(sum, made);
    return sum;
  }

  Rows feed_forward(const Rows& x, int64_t block) const {
    if (config_.experts > 0) return mix_experts(x, block);
    if (model_.find(Role::ffn_gate_up, block)) {
      Rows both = linear(x, Role::ffn_gate_up, block);
      const auto half = static_cast<size_t>(config_.ffn);
      for (auto& row : both) {
        for (size_t i = 0; i < half; ++i) row[i] = activate(row[i]) * row[half + i];
        row.resize(half);
      }
      return linear(both, Role::ffn_down, block);
    }
    Rows up = linear(x, Role::ffn_up, block);
    if (config_.feed_forward == FeedForward::plain) {
      for (auto& row : up)
        for (double& value : row) value = activate(value);
    } else {
      const Rows gate = linear(x, Role::ffn_gate, block);
      for (size_t t = 0; t < up.size(); ++t)
        for (size_t i = 0; i < up[t].size(); ++i) up[t][i] *= activate(gate[t][i]);
    }
    return linear(up, Role::ffn_down, block);
  }

  const Model& model_;
  const ModelConfig& config_;
  OracleOptions options_;
};

}  // namespace

std::vector<double> compute_oracle_logits(const Model& model, std::span<const int32_t> tokens, const OracleOptions& options) { return Oracle(model, options).run(tokens); }

}  // namespace llmc
