#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "model/attention.h"
#include "model/backward_kernels.h"
#include "model/kernels.h"
#include "model/matmul.h"

namespace llmc {
namespace {

/// Σ t log(t / own) over keys, of two distributions.
double divergence(std::span<const float> target, std::span<const float> own) {
  constexpr float least = std::numeric_limits<float>::min();  // what is less counts as this
  double sum = 0;
  for (size_t i = 0; i < own.size(); ++i) sum += double{target[i]} * std::log(double{std::max(target[i], least)} / std::max(own[i], least));
  return sum;
}

}  // namespace

double attend_backward(const ModelConfig& config, MatmulBackend backend, int64_t kv_head, int64_t length, const AttentionOperands<ConstMatrixView>& of, ConstMatrixView d_out, const AttentionOperands<MatrixView>& d, const AttentionTarget* target, float weight) {
  constexpr int64_t tile = attention_tile;
  const int64_t width = config.head_dim;
  const int64_t group = config.heads / config.kv_heads;
  const auto scale = static_cast<float>(config.score_scale());
  const std::vector<float> slopes = find_slopes(config), target_slopes = target ? find_slopes(*target->config) : std::vector<float>();
  assert(!target || (target->config->heads == config.heads && target->config->window == config.window && target->q.rows == of.q.rows));
  double sum = 0;
  assert(of.q.rows % tile == 0 && of.k.rows == of.q.rows && of.v.rows == of.q.rows && d_out.rows == of.q.rows && length <= of.q.rows);
  const auto of_head = [&](auto rows, int64_t number) { return rows.column_range(number * width, width); };
  const ConstMatrixView k = of_head(of.k, kv_head), v = of_head(of.v, kv_head);
  const MatrixView d_k = of_head(d.k, kv_head), d_v = of_head(d.v, kv_head);
  for (const MatrixView& part : {d_k, d_v})
    for (int64_t r = 0; r < part.rows; ++r) std::ranges::fill(part.row_span(r), 0.0f);

  for (int64_t first = 0; first < of.q.rows; first += tile)
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const int64_t from = first_key(config, first), keys = first + tile - from;
      const ConstMatrixView q = of_head(of.q, head).row_range(first, tile);
      const ConstMatrixView d_context = of_head(d_out, head).row_range(first, tile);
      const MatrixView weights{thread_scratch<float, 2>(static_cast<size_t>(tile * keys)).data(), tile, keys, keys};
      const MatrixView d_scores{thread_scratch<float, 3>(static_cast<size_t>(tile * keys)).data(), tile, keys, keys};
      multiply(backend, scale, q, k.row_range(from, keys), Transpose::yes, weights);
      multiply(backend, 1, d_context, v.row_range(from, keys), Transpose::yes, d_scores);
      const MatrixView wanted{thread_scratch<float, 9>(target ? static_cast<size_t>(tile * keys) : 0).data(), target ? tile : 0, keys, keys};
      if (target) {
        const ModelConfig& other = *target->config;
        const ConstMatrixView other_q = target->q.column_range(head * other.head_dim, other.head_dim), other_k = target->k.column_range(head / (other.heads / other.kv_heads) * other.head_dim, other.head_dim);
        multiply(backend, static_cast<float>(other.score_scale()), other_q.row_range(first, tile), other_k.row_range(from, keys), Transpose::yes, wanted);
      }
      for (int64_t r = 0; r < tile; ++r) {
        const size_t end = first + r < length ? static_cast<size_t>(first + r + 1 - from) : 0;
        const size_t begin = std::min(static_cast<size_t>(config.first_seen(first + r) - from), end), seen = end - begin;
        const std::span<float> row = weights.row_span(r), d_row = d_scores.row_span(r);
        if (seen > 0) {
          const std::span<float> scores = row.subspan(begin, seen), d_scores_of = d_row.subspan(begin, seen);
          const std::span<float> capped = thread_scratch<float, 8>(config.score_cap > 0 ? seen : 0);
          const auto cap = static_cast<float>(config.score_cap);
          std::ranges::copy(scores.first(capped.size()), capped.begin());
          cap_values(cap, capped);
          shape_scores(config, slopes[static_cast<size_t>(head)], from + static_cast<int64_t>(begin), scores);
          softmax(scores);
          softmax_backward(scores, scale, d_scores_of);
          if (target) {
            const std::span<float> wanted_of = wanted.row_span(r).subspan(begin, seen);
            shape_scores(*target->config, target_slopes[static_cast<size_t>(head)], from + static_cast<int64_t>(begin), wanted_of);
            softmax(wanted_of);
            sum += divergence(wanted_of, scores);
            for (size_t i = 0; i < seen; ++i) d_scores_of[i] += scale * weight * (scores[i] - wanted_of[i]);
          }
          if (!capped.empty()) cap_values_back(cap, capped, d_scores_of);
        }
        for (const std::span<float> unseen : {row.first(begin), row.subspan(end), d_row.first(begin), d_row.subspan(end)}) std::ranges::fill(unseen, 0.0f);
      }
      add_transposed_product(backend, 1, weights, d_context, d_v.row_range(from, keys));
      add_transposed_product(backend, 1, d_scores, q, d_k.row_range(from, keys));
      multiply(backend, 1, d_scores, k.row_range(from, keys), Transpose::no, of_head(d.q, head).row_range(first, tile));
    }
  return sum;
}

}  // namespace llmc
