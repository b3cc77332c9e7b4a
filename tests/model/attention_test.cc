#include "model/attention.h"

#include <cmath>
#include <cstring>
#include <numbers>

#include "core/parallel.h"
#include "core/random.h"
#include "tests/catch.h"

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
      for (int64_t s = 0; s <= t; ++s) {
        double score = 0;
        for (int64_t i = 0; i < config.head_dim; ++i) score += double{q.row(t)[at + i]} * k.row(s)[shared + i];
        weights.push_back(std::exp(score / std::sqrt(static_cast<double>(config.head_dim))));
        total += weights.back();
      }
      for (int64_t i = 0; i < config.head_dim; ++i) {
        double sum = 0;
        for (int64_t s = 0; s <= t; ++s) sum += weights[static_cast<size_t>(s)] * v.row(s)[shared + i];
        out.row(t)[at + i] = static_cast<float>(sum / total);
      }
    }
  return out;
}

}  // namespace

TEST_CASE("Attention agrees with one query at a time, across tiles and head groups") {
  for (MatmulBackend backend : {MatmulBackend::onednn, MatmulBackend::eigen}) {
    if (!has_backend(backend)) continue;
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
          with_threads(1, [&] { attend(config, backend, length, queries, keys, values, out.view()); });
          const Matrix expected = attend_plainly(config, queries.row_range(0, length), keys, values);
          double worst = 0;
          for (size_t i = 0; i < expected.values().size(); ++i) worst = std::max(worst, std::abs(double{out.values()[i]} - expected.values()[i]));
          CHECK(worst <= 5e-6);  // scores to about 30 are off by up to 30·2⁻²³, so weights by 4e-6 of themselves; values are a few
          Matrix again(rows, config.query_width());
          with_threads(4, [&] { attend(config, backend, length, queries, keys, values, again.view()); });
          CHECK(std::memcmp(again.row(0), out.row(0), expected.values().size_bytes()) == 0);
        }
  }
}

TEST_CASE("Rotary angles are f32, at any position") {
  constexpr int64_t rows = 600;  // several of the table's chunks
  for (int64_t head_dim : {8, 64})
    for (double theta : {10000.0, 500000.0}) {
      CAPTURE(head_dim, theta);
      const RotaryTable table(head_dim, theta);
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
