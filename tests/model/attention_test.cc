#include "model/attention.h"

#include <cmath>
#include <cstring>
#include <numbers>

#include "core/parallel.h"
#include "core/random.h"
#include "model/rotary_table.h"
#include "tests/catch.h"
#include "tests/linear_layers.h"
#include "tests/support.h"

using namespace llmc;

namespace {

Matrix random_matrix(int64_t rows, int64_t cols, const std::string& name) {
  Matrix matrix(rows, cols);
  Random random(1, name);
  for (float& value : matrix.values()) value = static_cast<float>(random.normal());
  return matrix;
}

/// One query at a time, in f64.
Matrix attend_plainly(const ModelConfig& config, ConstMatrixView q, ConstMatrixView k, ConstMatrixView v) {
  Matrix out(q.rows, q.cols);
  for (int64_t t = 0; t < q.rows; ++t)
    for (int64_t head = 0; head < config.heads; ++head) {
      const int64_t at = head * config.head_dim;
      const int64_t shared = head / (config.heads / config.kv_heads) * config.head_dim;
      std::vector<double> weights;
      double total = 0;
      const int64_t first = config.window > 0 ? std::max<int64_t>(0, t + 1 - config.window) : 0;
      for (int64_t s = first; s <= t; ++s) {
        double score = 0;
        for (int64_t i = 0; i < config.head_dim; ++i) score += double{q.row(t)[at + i]} * k.row(s)[shared + i];
        score /= std::sqrt(config.score_divisor > 0 ? config.score_divisor : static_cast<double>(config.head_dim));
        if (config.score_cap > 0) score = config.score_cap * std::tanh(score / config.score_cap);
        if (config.positions == Positions::alibi) score -= std::exp2(-8.0 * static_cast<double>(head + 1) / static_cast<double>(config.heads)) * static_cast<double>(t - s);
        weights.push_back(std::exp(score));
        total += weights.back();
      }
      for (int64_t i = 0; i < config.head_dim; ++i) {
        double sum = 0;
        for (int64_t s = first; s <= t; ++s) sum += weights[static_cast<size_t>(s - first)] * v.row(s)[shared + i];
        out.row(t)[at + i] = static_cast<float>(sum / total);
      }
    }
  return out;
}

}  // namespace

TEST_CASE("Attention agrees with one query at a time, across tiles and head groups") {
  for (MatmulBackend backend : test::backends()) {
    for (int64_t kv_heads : {1, 2, 6})
      for (int64_t head_dim : {7, 32})
        for (int64_t length : {1, 31, 63, 64, 65, 200}) {
          CAPTURE(to_string(backend), kv_heads, head_dim, length);
          ModelConfig config;
          config.heads = 6;
          config.kv_heads = kv_heads;
          config.head_dim = head_dim;
          const int64_t rows = (length + attention_tile - 1) / attention_tile * attention_tile;
          const auto make = [&](int64_t width, const std::string& name) {
            Matrix matrix = random_matrix(rows, width + 5, name);
            std::fill(matrix.row(length), matrix.row(rows), 0.0f);
            return matrix;
          };
          const Matrix q = make(config.query_width(), "q");
          const Matrix k = make(config.kv_width(), "k");
          const Matrix v = make(config.kv_width(), "v");
          const ConstMatrixView queries = q.view().column_range(5, config.query_width());
          const ConstMatrixView keys = k.view().column_range(5, config.kv_width());
          const ConstMatrixView values = v.view().column_range(5, config.kv_width());
          Matrix out(rows, config.query_width());
          with_threads(1, [&] { attend(config, backend, Precision::f32, length, queries, keys, values, out.view()); });
          const Matrix expected = attend_plainly(config, queries.row_range(0, length), keys, values);
          double worst = 0;
          for (size_t i = 0; i < expected.values().size(); ++i) worst = std::max(worst, std::abs(double{out.values()[i]} - expected.values()[i]));
          if (length == 200) {
            Matrix rounded(rows, config.query_width());
            attend(config, backend, Precision::bf16, length, queries, keys, values, rounded.view());
            double most = 0;
            for (size_t i = 0; i < expected.values().size(); ++i) most = std::max(most, std::abs(double{rounded.values()[i]} - expected.values()[i]));
            CHECK(most <= 0.3);  // operands are off by up to 2⁻⁹ of themselves, scores of about 30 so by 0.1
            CHECK((most > 1e-3) == (backend == MatmulBackend::amx));
          }
          CHECK(worst <= 5e-6);  // scores to about 30 are off by up to 30·2⁻²³, so weights by 4e-6 of themselves; values are a few
          Matrix again(rows, config.query_width());
          with_threads(4, [&] { attend(config, backend, Precision::f32, length, queries, keys, values, again.view()); });
          CHECK(std::memcmp(again.row(0), out.row(0), expected.values().size_bytes()) == 0);
        }
  }
}

namespace {

/// q, k and v of one sequence, as attend takes them.
struct Operands {
  Operands(const ModelConfig& config, int64_t rows) : q(random_matrix(rows, config.query_width(), "q")), k(random_matrix(rows, config.kv_width(), "k")), v(random_matrix(rows, config.kv_width(), "v")), d_out(random_matrix(rows, config.query_width(), "d")) {}
  Operands(const ModelConfig& config, const Operands& of, int64_t first, int64_t rows) : Operands(config, rows) {
    for (const auto& [to, from] : {std::pair(&q, &of.q), {&k, &of.k}, {&v, &of.v}, {&d_out, &of.d_out}}) std::copy(from->row(first), from->row(first + rows), to->row(0));
  }

  /// The gradients of all three.
  Operands backward(const ModelConfig& config, MatmulBackend backend) const {
    Operands d(config, q.rows());
    for (int64_t head = 0; head < config.kv_heads; ++head) attend_backward(config, backend, head, q.rows(), {q.view(), k.view(), v.view()}, d_out.view(), {d.q.view(), d.k.view(), d.v.view()});
    return d;
  }

  Matrix q, k, v, d_out;
};

}  // namespace

TEST_CASE("Slopes of ALiBi are those of the paper, for heads that are no power of two as well") {
  CHECK(alibi_slopes(4) == std::vector<float>{0x1p-2f, 0x1p-4f, 0x1p-6f, 0x1p-8f});
  CHECK(alibi_slopes(3) == std::vector<float>{0x1p-4f, 0x1p-8f, 0x1p-2f});
  CHECK(alibi_slopes(1) == std::vector<float>{0x1p-8f});
}

TEST_CASE("Falcon's ALiBi counts from the start of the sequence and is rounded to bfloat16 before scores are divided") {
  ModelConfig config;
  config.heads = 16, config.kv_heads = 16, config.head_dim = 4, config.positions = Positions::rounded_alibi;
  const float slope = find_slopes(config)[0];
  CHECK(slope == 0.70703125f);  // 2^(−1/2) with 8 bits
  std::vector<float> scores = {1, 1, 1, 1};
  shape_scores(config, slope, 300, scores);
  CHECK(scores == std::vector<float>{107, 107, 108, 108.5});  // of positions 300, 300, 302 and 304: products 212, 212, 214 and 215
  config.positions = Positions::alibi;
  CHECK(find_slopes(config)[0] == alibi_slopes(16)[0]);
}

TEST_CASE("Through a window attention sees the last positions only, forward, one by one and backward, whatever shapes its scores") {
  ModelConfig config;
  config.heads = 4, config.kv_heads = 2, config.head_dim = 16;
  const bool is_shaped = GENERATE(false, true);
  if (is_shaped) config.score_cap = 3, config.score_divisor = 10, config.positions = Positions::alibi;
  constexpr int64_t rows = 4 * attention_tile, last = 3 * attention_tile;
  for (MatmulBackend backend : test::backends())
    for (int64_t window : {1, 5, 64, 65, 100, 1000}) {
      CAPTURE(to_string(backend), window, is_shaped);
      config.window = window;
      Operands all(config, rows);
      Matrix out(rows, config.query_width()), next(1, config.query_width());
      attend(config, backend, Precision::f32, rows, all.q.view(), all.k.view(), all.v.view(), out.view());
      const Matrix expected = attend_plainly(config, all.q.view(), all.k.view(), all.v.view());
      const auto largest = [](std::span<const float> a, std::span<const float> b) {
        double worst = 0;
        for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(double{a[i]} - b[i]));
        return worst;
      };
      CHECK(largest(out.values(), expected.values()) <= 5e-6);  // as above
      KeyValueCache cache(config, 1, rows);
      for (int64_t r = 0; r < rows; ++r) {
        cache.attend_next(all.q.view().row_range(r, 1), all.k.view().row_range(r, 1), all.v.view().row_range(r, 1), next.view());
        REQUIRE(largest(next.values(), expected.view().row_span(r)) <= 5e-6);
      }
      // With no gradient but in the last tile, all else is as if the sequence began where its first query begins to see.
      const int64_t begin = config.first_seen(last) / attention_tile * attention_tile;
      std::fill(all.d_out.row(0), all.d_out.row(last), 0.0f);
      const Operands whole = all.backward(config, backend), part = Operands(config, all, begin, rows - begin).backward(config, backend);
      for (const auto& [found, expected_part] : {std::pair(&whole.q, &part.q), {&whole.k, &part.k}, {&whole.v, &part.v}}) {
        const auto values = found->values();
        const auto cut = static_cast<size_t>(begin * found->cols());
        CHECK(largest(values.subspan(cut), expected_part->values()) <= 1e-5);  // sums in another order
        CHECK(std::ranges::all_of(values.first(static_cast<size_t>(config.first_seen(last) * found->cols())), [](float value) { return value == 0; }));
      }
    }
}

namespace {

/// What each query of a head sees of the first `length` keys, in f64.
std::vector<double> attention_of(const ModelConfig& config, ConstMatrixView q, ConstMatrixView k, int64_t head, int64_t query) {
  const int64_t begin = config.first_seen(query), width = config.head_dim, kv_head = head / (config.heads / config.kv_heads);
  const double slope = config.positions == Positions::alibi ? alibi_slopes(config.heads)[static_cast<size_t>(head)] : 0;
  std::vector<double> seen;
  double sum = 0;
  for (int64_t key = begin; key <= query; ++key) {
    double score = 0;
    for (int64_t c = 0; c < width; ++c) score += double{q.row(query)[head * width + c]} * k.row(key)[kv_head * width + c];
    score *= config.score_scale();
    if (config.score_cap > 0) score = config.score_cap * std::tanh(score / config.score_cap);
    sum += seen.emplace_back(std::exp(score - slope * static_cast<double>(query - key)));
  }
  for (double& value : seen) value /= sum;
  return seen;
}

double divergence_of(const ModelConfig& config, ConstMatrixView q, ConstMatrixView k, const AttentionTarget& target, int64_t length) {
  double sum = 0;
  for (int64_t head = 0; head < config.heads; ++head)
    for (int64_t query = 0; query < length; ++query) {
      const std::vector<double> own = attention_of(config, q, k, head, query), wanted = attention_of(*target.config, target.q, target.k, head, query);
      for (size_t i = 0; i < own.size(); ++i) sum += wanted[i] * std::log(wanted[i] / own[i]);
    }
  return sum;
}

}  // namespace

TEST_CASE("The divergence of attention from another model's is what its definition says, and its gradients are central differences") {
  ModelConfig own, other;
  own.heads = other.heads = 4, own.kv_heads = 2, other.kv_heads = 4, own.head_dim = 8, other.head_dim = 6;
  own.window = other.window = GENERATE(0, 20);
  if (GENERATE(false, true)) own.score_cap = 3, own.score_divisor = 5, other.positions = Positions::alibi;
  constexpr int64_t rows = 2 * attention_tile, length = rows - 30;
  constexpr float weight = 0.7f;
  const Operands all(own, rows), taught(other, rows);
  const AttentionTarget target{.config = &other, .q = taught.q.view(), .k = taught.k.view()};
  for (MatmulBackend backend : test::backends()) {
    CAPTURE(to_string(backend), own.window, own.score_cap);
    const auto backward = [&](const AttentionTarget* of) {
      Operands d(own, rows);
      double sum = 0;
      for (int64_t head = 0; head < own.kv_heads; ++head) sum += attend_backward(own, backend, head, length, {all.q.view(), all.k.view(), all.v.view()}, all.d_out.view(), {d.q.view(), d.k.view(), d.v.view()}, of, weight);
      return std::pair(std::move(d), sum);
    };
    const auto [without, nothing] = backward(nullptr);
    const auto [with, found] = backward(&target);
    CHECK(nothing == 0);
    CHECK(found == Approx(divergence_of(own, all.q.view(), all.k.view(), target, length)).epsilon(1e-5));
    CHECK(test::same_bits(with.v, without.v));
    for (const auto part : {&Operands::q, &Operands::k})
      for (const int64_t row : {int64_t{0}, int64_t{7}, attention_tile + 3, length - 1, length})
        for (int64_t c = 0; c < (all.*part).cols(); c += 3) {
          const auto loss_at = [&](float distance) {
            Operands moved = all;
            (moved.*part).row(row)[c] += distance;
            return weight * divergence_of(own, moved.q.view(), moved.k.view(), target, length);
          };
          constexpr float step = 0x1p-7f;
          CHECK((with.*part).row(row)[c] - (without.*part).row(row)[c] == Approx((loss_at(step) - loss_at(-step)) / (2 * step)).epsilon(2e-3).margin(2e-4));
        }
  }
}

TEST_CASE("Rotary angles are f32, at any position") {
  constexpr int64_t rows = 600;  // several of the table's chunks
  for (int64_t head_dim : {8, 64})
    for (double theta : {10000.0, 500000.0}) {
      CAPTURE(head_dim, theta);
      const RotaryTable table({.theta = theta, .dim = head_dim}, head_dim);
      Matrix matrix(rows, 2 * head_dim);
      for (int64_t r = 0; r < rows; ++r) std::fill_n(matrix.row(r), head_dim / 2, 1.0f);  // (1, 0) becomes (cos, sin)
      table.rotate(matrix.view());
      double worst = 0;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < head_dim / 2; ++i) {
          const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
          const float frequency = 1.0f / static_cast<float>(std::pow(theta, double{exponent}));
          const float angle = static_cast<float>(r) * frequency;
          worst = std::max(worst, std::abs(matrix.row(r)[i] - std::cos(double{angle})));
          worst = std::max(worst, std::abs(matrix.row(r)[head_dim / 2 + i] - std::sin(double{angle})));
          CHECK(matrix.row(r)[head_dim + i] == 0);  // the second head was zero
        }
      CHECK(worst <= 0x1p-24);  // rounded once
    }
}
