#include "passes/gptq.h"

#include <Eigen/Dense>

#include "core/parallel.h"
#include "passes/refinement.h"
#include "passes/rounding.h"
#include "tests/catch.h"
#include "tests/support.h"

namespace llmc {
using Catch::Matchers::Contains;

namespace {

using MatrixF64 = Eigen::MatrixXd;

/// Second moment of correlated inputs: mean of x xᵀ over `tokens` rows of noise times a mixing matrix.
Matrix correlated_second_moment(int64_t in, int64_t tokens, const std::string& name) {
  const Matrix noise = test::random_matrix(tokens, in, name + " noise"), mix = test::random_matrix(in, in, name + " mix");
  MatrixF64 x(tokens, in);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < in; ++i) {
      double sum = 2 * noise.row(t)[i];
      for (int64_t k = 0; k < in; ++k) sum += 0.5 * noise.row(t)[k] * mix.row(k)[i];
      x(t, i) = sum;
    }
  const MatrixF64 h = x.transpose() * x / static_cast<double>(tokens);
  Matrix moment(in, in);
  for (int64_t i = 0; i < in; ++i)
    for (int64_t j = 0; j < in; ++j) moment.row(i)[j] = static_cast<float>(h(i, j));
  return moment;
}

MatrixF64 to_f64(const Matrix& matrix) {
  MatrixF64 result(matrix.rows(), matrix.cols());
  for (int64_t r = 0; r < matrix.rows(); ++r)
    for (int64_t c = 0; c < matrix.cols(); ++c) result(r, c) = matrix.row(r)[c];
  return result;
}

MatrixF64 damped(const Matrix& moment, double damping) {
  MatrixF64 h = to_f64(moment);
  h.diagonal().array() += damping * h.diagonal().mean();
  return h;
}

/// Optimal brain quantization in f64, as the first equations of the paper say it: round one weight, move all that are left
/// by the inverse Hessian of those left, go on. No Cholesky factor, no blocks.
std::vector<int8_t> textbook_gptq(const Matrix& weights, const Matrix& moment, double damping, const std::vector<int64_t>& order, const QuantizedMatrix& grids) {
  const MatrixF64 h = damped(moment, damping);
  MatrixF64 w = to_f64(weights);
  std::vector<int8_t> codes(grids.codes.size());
  for (size_t step = 0; step < order.size(); ++step) {
    const std::vector<int64_t> left(order.begin() + static_cast<int64_t>(step), order.end());
    const MatrixF64 inverse = h(left, left).inverse();
    const int64_t q = left[0];
    for (int64_t r = 0; r < w.rows(); ++r) {
      const Grid grid = get_grid(grids, grids.scale_index(r, q));
      const float code = grid.code(static_cast<float>(w(r, q)));
      codes[static_cast<size_t>(r * grids.cols + q)] = static_cast<int8_t>(code);
      const double error = (w(r, q) - grid.value(code)) / inverse(0, 0);
      for (size_t k = 0; k < left.size(); ++k) w(r, left[k]) -= error * inverse(static_cast<int64_t>(k), 0);
    }
  }
  return codes;
}

}  // namespace

TEST_CASE("The factor of a second moment is that of its damped inverse") {
  for (int64_t in : {1, 31, 33, 130}) {
    const Matrix moment = correlated_second_moment(in, 3 * in, "factor");
    for (RoundingOrder order : {RoundingOrder::natural, RoundingOrder::activation}) {
      const HessianFactor factor = factor_hessian(moment.view(), 0.01, order, "t");
      const MatrixF64 u = to_f64(factor.upper), h = damped(moment, 0.01)(factor.order, factor.order);
      const MatrixF64 identity = u.transpose() * u * h;
      CHECK((identity - MatrixF64::Identity(in, in)).cwiseAbs().maxCoeff() < 1e-3);  // U is stored in f32
      CHECK(u.isUpperTriangular());
      CHECK(factor.damping == 0.01);
    }
  }
}

TEST_CASE("GPTQ rounds as its definition in double precision does") {
  for (const char* scheme_text : {"W4A16-channel", "W3A16-g13-linear", "W2A16-g13", "W4A16-tensor-linear", "FP8A16", "NF4-g13", "codebook5-channel", "codebook12", "MXFP4A16", "NVFP4A16"}) {
    const Scheme scheme = parse_scheme(scheme_text);
    const bool has_fixed_groups = scheme.scale != ScaleKind::floating;
    for (int64_t in : has_fixed_groups ? std::vector<int64_t>{32, 160} : std::vector<int64_t>{13, 39, 143}) {
      const Matrix weights = test::random_matrix(67, in, scheme_text), moment = correlated_second_moment(in, 2 * in, "gptq");
      for (RoundingOrder order : {RoundingOrder::natural, RoundingOrder::activation}) {
        const HessianFactor factor = factor_hessian(moment.view(), 0.01, order, "t");
        const QuantizedMatrix rounded = quantize_gptq(weights.view(), factor, scheme, scale_dtype_for(scheme, DType::f32), {}, "t");
        const std::vector<int8_t> expected = textbook_gptq(weights, moment, 0.01, factor.order, rounded);
        // A weight that lies within f32 rounding of the middle of two codes may go either way, and takes others along.
        int64_t different = 0;
        for (size_t i = 0; i < expected.size(); ++i) different += expected[i] != rounded.codes[i];
        INFO(scheme_text << ", " << in << " columns: " << different << " codes of " << expected.size());
        CHECK(static_cast<double>(different) <= 0.005 * static_cast<double>(expected.size()));
      }
    }
  }
}

TEST_CASE("GPTQ has less output error than rounding to nearest, and refinement less again") {
  const Matrix weights = test::random_matrix(65, 128, "w"), moment = correlated_second_moment(128, 512, "moment");
  for (const char* scheme_text : {"W4A16-g32", "W3A16-channel-linear", "W2A16-g64-linear", "W4A16-tensor", "FP8A16", "MXFP4A16", "NVFP4A16", "NF4-g32", "codebook8-channel", "codebook16"}) {
    CAPTURE(scheme_text);
    const Scheme scheme = parse_scheme(scheme_text);
    const DType scale_dtype = scale_dtype_for(scheme, DType::bf16);
    const RangeOptions range{.rule = RangeRule::mse};
    const auto error_of = [&](const QuantizedMatrix& rounded) { return output_error(weights.view(), dequantize(rounded).view(), moment.view()); };
    const double nearest = error_of(round_to_nearest(weights.view(), scheme, scale_dtype, range, "t"));
    QuantizedMatrix rounded = quantize_gptq(weights.view(), factor_hessian(moment.view(), 0.01, RoundingOrder::activation, "t"), scheme, scale_dtype, range, "t");
    const double compensated = error_of(rounded);
    CHECK(compensated < nearest);
    double before = compensated;
    for (int round = 0; round < 3; ++round) {
      refine_rounding(rounded, weights.view(), moment.view(), 1);
      const double after = error_of(rounded);
      CHECK(after <= before * (1 + 1e-4));  // up to rounding in f32
      before = after;
    }
    CHECK(before < compensated);
    for (float scale : rounded.scales) CHECK(scale == round_to(scale_dtype, scale));
  }
}

TEST_CASE("Rounding with compensation gives the same bytes for any number of threads") {
  const Matrix weights = test::random_matrix(200, 160, "w"), moment = correlated_second_moment(160, 320, "moment");
  std::vector<QuantizedMatrix> results;
  for (int threads : {1, 2, 7})
    with_threads(threads, [&] {
      QuantizedMatrix rounded = quantize_gptq(weights.view(), factor_hessian(moment.view(), 0.01, RoundingOrder::activation, "t"), parse_scheme("W3A16-g32"), DType::f32, {}, "t");
      refine_rounding(rounded, weights.view(), moment.view(), 2);
      results.push_back(std::move(rounded));
    });
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
}

TEST_CASE("Channels without input are rounded to nearest, and a singular second moment is damped more or refused") {
  Matrix moment = correlated_second_moment(32, 64, "moment");
  for (int64_t dead : {3, 17})
    for (int64_t i = 0; i < 32; ++i) moment.row(dead)[i] = moment.row(i)[dead] = 0;
  const Matrix weights = test::random_matrix(5, 32, "w");
  const HessianFactor factor = factor_hessian(moment.view(), 0.01, RoundingOrder::activation, "t");
  CHECK(factor.dead == 2);
  const Scheme scheme = parse_scheme("W4A16-channel");
  const QuantizedMatrix rounded = quantize_gptq(weights.view(), factor, scheme, DType::f32, {}, "t");
  const QuantizedMatrix nearest = round_to_nearest(weights.view(), scheme, DType::f32, {}, "t");
  for (int64_t r = 0; r < 5; ++r)
    for (int64_t dead : {3, 17}) CHECK(rounded.codes[static_cast<size_t>(r * 32 + dead)] == nearest.codes[static_cast<size_t>(r * 32 + dead)]);

  Matrix indefinite(2, 2);
  indefinite.row(0)[0] = indefinite.row(1)[1] = 1;
  indefinite.row(0)[1] = indefinite.row(1)[0] = 1.05f;
  CHECK(factor_hessian(indefinite.view(), 0.01, RoundingOrder::natural, "t").damping == Approx(0.1));
  CHECK_THROWS_WITH(factor_hessian(indefinite.view(), 0, RoundingOrder::natural, "block 3, ffn_input"), Contains("block 3, ffn_input") && Contains("not positive definite"));
  indefinite.row(0)[1] = indefinite.row(1)[0] = 5;
  CHECK_THROWS_WITH(factor_hessian(indefinite.view(), 0.01, RoundingOrder::natural, "here"), Contains("here"));
}

TEST_CASE("The factor of a matrix of many tiles is that of its inverse, for any number of threads") {
  for (int64_t in : {191, 192, 450}) {
    CAPTURE(in);
    const Matrix moment = correlated_second_moment(in, 2 * in, "tiles");
    HessianFactor factor, again;
    with_threads(1, [&] { factor = factor_hessian(moment.view(), 0.01, RoundingOrder::natural, "t"); });
    with_threads(5, [&] { again = factor_hessian(moment.view(), 0.01, RoundingOrder::natural, "t"); });
    CHECK(std::ranges::equal(factor.upper.values(), again.upper.values()));
    const MatrixF64 upper = to_f64(factor.upper), product = upper.transpose() * upper * damped(moment, 0.01);
    CHECK((product - MatrixF64::Identity(in, in)).cwiseAbs().maxCoeff() < 1e-4);  // U is kept in f32
  }
}

TEST_CASE("The correction for drifted inputs solves its least-squares problem") {
  const int64_t in = 24, tokens = 200;
  const Matrix x = test::random_matrix(tokens, in, "x"), noise = test::random_matrix(tokens, in, "noise"), weights = test::random_matrix(9, in, "w");
  const MatrixF64 changed = to_f64(x), plain = changed + 0.2 * to_f64(noise);
  const MatrixF64 h = changed.transpose() * changed / tokens, c = plain.transpose() * changed / tokens;
  Matrix second(in, in), drift(in, in);
  for (int64_t i = 0; i < in; ++i)
    for (int64_t j = 0; j < in; ++j) second.row(i)[j] = static_cast<float>(h(i, j)), drift.row(i)[j] = static_cast<float>(c(i, j) - h(i, j));
  const MatrixF64 expected = (plain * to_f64(weights).transpose()).transpose() * changed * (changed.transpose() * changed).inverse();
  const Matrix corrected = correct_for_drift(weights.view(), drift.view(), factor_hessian(second.view(), 0, RoundingOrder::activation, "t"));
  CHECK((to_f64(corrected) - expected).cwiseAbs().maxCoeff() < 1e-4);  // moments are handed over in f32
  const Matrix same = correct_for_drift(weights.view(), Matrix(in, in).view(), factor_hessian(second.view(), 0.01, RoundingOrder::natural, "t"));
  CHECK((to_f64(same) - to_f64(weights)).cwiseAbs().maxCoeff() < 1e-5);
}

}  // namespace llmc
