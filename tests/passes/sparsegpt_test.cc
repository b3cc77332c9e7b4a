#include "passes/sparsegpt.h"

#include <Eigen/Dense>

#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "passes/gptq.h"
#include "passes/pruning_scores.h"
#include "passes/reconstruction.h"
#include "passes/refinement.h"
#include "passes/rounding.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

namespace llmc {
namespace {

using MatrixF64 = Eigen::MatrixXd;

Matrix read_matrix_file(const std::string& name) {
  const auto array = read_golden<float>(golden_root().parent_path() / "pruning" / (name + ".npy"), DType::f32);
  Matrix matrix(array.shape.at(0), array.shape.at(1));
  std::ranges::copy(array.values, matrix.values().begin());
  return matrix;
}

std::vector<float> diagonal_of(const Matrix& moment) {
  std::vector<float> values;
  for (int64_t i = 0; i < moment.rows(); ++i) values.push_back(moment.row(i)[i]);
  return values;
}

/// Second moment of inputs that are mixtures of a few others, of very different sizes.
Matrix mixed_moment(int64_t in) {
  const Matrix noise = test::random_matrix(3 * in, in, "noise"), mix = test::random_matrix(in, in, "mix");
  MatrixF64 x(3 * in, in);
  for (int64_t t = 0; t < 3 * in; ++t)
    for (int64_t i = 0; i < in; ++i) {
      double sum = 2 * noise.row(t)[i];
      for (int64_t k = 0; k < in; ++k) sum += 0.3 * noise.row(t)[k] * mix.row(k)[i];
      x(t, i) = sum * static_cast<double>(1 + i % 5);
    }
  const MatrixF64 h = x.transpose() * x / (3.0 * static_cast<double>(in));
  Matrix moment(in, in);
  for (int64_t i = 0; i < in; ++i)
    for (int64_t j = 0; j < in; ++j) moment.row(i)[j] = static_cast<float>(h(i, j));
  return moment;
}

struct Case {
  const char* name;
  const char* pattern;
  double sparsity;
};
constexpr Case cases[] = {{"unstructured-50", "unstructured", 0.5}, {"unstructured-70", "unstructured", 0.7}, {"2of4", "2:4", 0.5}, {"4of8", "4:8", 0.5}};

}  // namespace

TEST_CASE("Wanda's weights are those of the paper restated in NumPy", "[pruning]") {
  const Matrix weights = read_matrix_file("weights"), moment = read_matrix_file("second_moment");
  for (const Case& c : cases) {
    INFO(c.name);
    const SparsityPattern pattern = parse_sparsity_pattern(c.pattern, "t");
    Matrix values = weights;
    apply(choose_mask(wanda_scores(weights.view(), diagonal_of(moment)).view(), pattern, RankScope::row, share_of(c.sparsity, weights.cols())), values.view());
    CHECK(std::ranges::equal(values.values(), read_matrix_file(std::string("wanda-") + c.name).values()));
  }
}

TEST_CASE("SparseGPT's masks and weights are those of the paper restated in NumPy", "[pruning]") {
  const Matrix weights = read_matrix_file("weights"), moment = read_matrix_file("second_moment");
  const HessianFactor factor = factor_hessian(moment.view(), 0.01, RoundingOrder::natural, "t");
  for (const Case& c : cases) {
    INFO(c.name);
    const Matrix expected = read_matrix_file(std::string("sparsegpt-") + c.name);
    const PrunedMatrix pruned = prune_sparsegpt(weights.view(), factor, diagonal_of(moment), {.pattern = parse_sparsity_pattern(c.pattern, "t"), .sparsity = c.sparsity});
    CHECK(pruned.mask.gone == find_zeros(expected.view()).gone);
    double worst = 0;
    for (size_t i = 0; i < expected.values().size(); ++i) worst = std::max<double>(worst, std::abs(expected.values()[i] - pruned.values.values()[i]));
    CHECK(worst < 2e-4);  // weights of size 1 after 136 updates in f32, by a factor stored in f32
  }
}

TEST_CASE("SparseGPT reaches its share under every pattern and scope, and is better than zeros alone", "[pruning]") {
  for (int64_t rows : {33, 66})
    for (int64_t in : {36, 144, 288}) {
      const Matrix weights = test::random_matrix(rows, in, "w"), moment = mixed_moment(in);
      const HessianFactor factor = factor_hessian(moment.view(), 0.01, RoundingOrder::natural, "t");
      for (const char* text : {"unstructured", "2:4", "5:12", "block:1x4", "block:3x4", "block:33x1"})
        for (RankScope scope : {RankScope::tensor, RankScope::row}) {
          const SparsityPattern pattern = parse_sparsity_pattern(text, "t");
          const SparsityTarget target{.pattern = pattern, .scope = scope, .sparsity = pattern.is_n_of_m() ? pattern.sparsity() : 0.37};
          INFO(text << " " << to_string(scope) << " " << rows << " x " << in);
          const PrunedMatrix pruned = prune_sparsegpt(weights.view(), factor, diagonal_of(moment), target);
          CHECK(pruned.mask.zeros() == planned_zeros(pattern, scope, target.sparsity, rows, in));
          CHECK(find_zeros(pruned.values.view()).gone == pruned.mask.gone);
          for (int64_t r = 0; r < rows; r += pattern.block_rows)  // whole blocks go
            for (int64_t c = 0; c < in; ++c) REQUIRE(pruned.mask.row(r)[c] == pruned.mask.row(r + pattern.block_rows - 1)[c / pattern.block_cols * pattern.block_cols]);
          Matrix masked = weights;
          apply(pruned.mask, masked.view());
          CHECK(relative_output_error(weights.view(), pruned.values.view(), moment.view()) < relative_output_error(weights.view(), masked.view(), moment.view()));
        }
    }
}

TEST_CASE("Inputs that are always 0 lose their weights first", "[pruning]") {
  Matrix moment = mixed_moment(32);
  for (int64_t i = 0; i < 32; ++i) moment.row(5)[i] = moment.row(i)[5] = moment.row(30)[i] = moment.row(i)[30] = 0;
  const Matrix weights = test::random_matrix(7, 32, "w");
  const PrunedMatrix pruned = prune_sparsegpt(weights.view(), factor_hessian(moment.view(), 0.01, RoundingOrder::natural, "t"), diagonal_of(moment), {.sparsity = 0.2});
  for (int64_t r = 0; r < 7; ++r) CHECK((pruned.mask.row(r)[5] && pruned.mask.row(r)[30]));
}

TEST_CASE("Pruning and rounding in one pass: on the grid, zeros where the mask says so, better than one after the other", "[pruning]") {
  const Matrix weights = test::random_matrix(66, 128, "w"), moment = mixed_moment(128);
  const HessianFactor factor = factor_hessian(moment.view(), 0.01, RoundingOrder::natural, "t");
  for (const char* scheme_text : {"W4A16-g32", "W3A16-g32-linear", "NF4-g64", "codebook16"})
    for (const char* text : {"unstructured", "2:4"}) {
      INFO(scheme_text << " " << text);
      const Scheme scheme = parse_scheme(scheme_text);
      const SparsityTarget target{.pattern = parse_sparsity_pattern(text, "t"), .sparsity = 0.5};
      const SparseRounding joint = quantize_sparsegpt(weights.view(), factor, diagonal_of(moment), target, scheme, DType::bf16, {}, "t");
      const Matrix values = dequantize(joint.rounded);
      CHECK(joint.mask.zeros() == 66 * 64);
      for (size_t i = 0; i < joint.mask.gone.size(); ++i)
        if (joint.mask.gone[i]) REQUIRE(values.values()[i] == 0);
      const PrunedMatrix pruned = prune_sparsegpt(weights.view(), factor, diagonal_of(moment), target);
      const Matrix apart = dequantize(round_to_nearest(pruned.values.view(), scheme, DType::bf16, {.zero = ZeroLevel::kept}, "t"));
      CHECK(relative_output_error(weights.view(), values.view(), moment.view()) < relative_output_error(weights.view(), apart.view(), moment.view()));
    }
}

TEST_CASE("GPTQ and its refinement leave pruned weights at 0 and make up for them", "[pruning]") {
  const Matrix dense = test::random_matrix(66, 130, "w"), moment = mixed_moment(130);
  Matrix weights = dense;
  const Mask mask = choose_mask(dense.view(), {}, RankScope::tensor, 66 * 65);
  apply(mask, weights.view());
  for (const char* scheme_text : {"W4A16-g26", "W3A16-channel-linear", "NF4-g65"})
    for (RoundingOrder order : {RoundingOrder::natural, RoundingOrder::activation}) {
      INFO(scheme_text);
      const Scheme scheme = parse_scheme(scheme_text);
      QuantizedMatrix rounded = quantize_gptq(weights.view(), factor_hessian(moment.view(), 0.01, order, "t"), scheme, DType::bf16, {.zero = ZeroLevel::kept}, "t", &mask);
      const auto stays_zero = [&] {
        const Matrix values = dequantize(rounded);
        for (size_t i = 0; i < mask.gone.size(); ++i)
          if (mask.gone[i] && values.values()[i] != 0) return false;
        return true;
      };
      const auto error = [&] { return output_error(weights.view(), dequantize(rounded).view(), moment.view()); };
      CHECK(stays_zero());
      const double before = error();
      CHECK(before < output_error(weights.view(), dequantize(round_to_nearest(weights.view(), scheme, DType::bf16, {.zero = ZeroLevel::kept}, "t")).view(), moment.view()));
      refine_rounding(rounded, weights.view(), moment.view(), 2, &mask);
      CHECK(stays_zero());
      CHECK(error() < before);
    }
}

TEST_CASE("Reconstruction solves the least squares of each row's survivors", "[pruning]") {
  for (int64_t rows : {1, 31, 65})
    for (int64_t in : {1, 31, 96}) {
      const Matrix weights = test::random_matrix(rows, in, "w"), moment = mixed_moment(in);
      const Mask mask = choose_mask(weights.view(), {}, RankScope::tensor, rows * in / 2);
      Matrix start = weights;
      apply(mask, start.view());
      const Matrix fitted = reconstruct(weights.view(), mask, start.view(), moment.view(), 0.01);
      MatrixF64 h(in, in);
      for (int64_t i = 0; i < in; ++i)
        for (int64_t j = 0; j < in; ++j) h(i, j) = moment.row(i)[j];
      h.diagonal().array() += 0.01 * h.diagonal().mean();
      double worst = 0;
      for (int64_t r = 0; r < rows; ++r) {
        std::vector<int64_t> kept;
        for (int64_t i = 0; i < in; ++i)
          if (!mask.row(r)[i]) kept.push_back(i);
          else CHECK(fitted.row(r)[i] == 0);
        if (kept.empty()) continue;
        Eigen::VectorXd w(in);
        for (int64_t i = 0; i < in; ++i) w(i) = weights.row(r)[i];
        const Eigen::VectorXd right = (h * w)(kept);
        const Eigen::VectorXd expected = h(kept, kept).llt().solve(right);
        for (size_t k = 0; k < kept.size(); ++k) worst = std::max(worst, std::abs(expected(static_cast<int64_t>(k)) - fitted.row(r)[kept[k]]));
      }
      CHECK(worst < 2e-3);  // 50 rounds in f32 on matrices of condition 1e3
    }
}

TEST_CASE("Calibrated pruning gives the same bits for any number of threads", "[pruning]") {
  const Matrix weights = test::random_matrix(200, 160, "w"), moment = mixed_moment(160);
  std::vector<Matrix> results;
  for (int threads : {1, 2, 7})
    with_threads(threads, [&] {
      PrunedMatrix pruned = prune_sparsegpt(weights.view(), factor_hessian(moment.view(), 0.01, RoundingOrder::natural, "t"), diagonal_of(moment), {.sparsity = 0.5});
      results.push_back(reconstruct(weights.view(), pruned.mask, pruned.values.view(), moment.view(), 0.01));
    });
  CHECK(std::ranges::equal(results[0].values(), results[1].values()));
  CHECK(std::ranges::equal(results[0].values(), results[2].values()));
}

}  // namespace llmc
