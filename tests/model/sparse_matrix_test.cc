#include "model/sparse_matrix.h"

#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "core/random.h"
#include "model/sparse_kernels.h"
#include "tests/catch.h"
#include "tests/linear_layers.h"
#include "tests/support.h"
#include "tests/vector_targets.h"

using namespace llmc;

namespace {

constexpr StripHeight heights[] = {StripHeight::one, StripHeight::two, StripHeight::four};

/// Weights of which blocks of `rows` x `cols` are zero, but for a share of `kept`.
Matrix sparse_matrix(int64_t out, int64_t in, double kept, int64_t rows = 1, int64_t cols = 1) {
  Matrix weight = test::random_matrix(out, in, "weight");
  Random random(1, "mask");
  for (int64_t first = 0; first < out; first += rows)
    for (int64_t left = 0; left < in; left += cols)
      if (random.uniform() >= kept)
        for (int64_t r = first; r < std::min(out, first + rows); ++r) std::fill_n(weight.row(r) + left, std::min(cols, in - left), 0.0f);
  return weight;
}

Matrix two_of_four(int64_t out, int64_t in) {
  Matrix weight = test::random_matrix(out, in, "weight");
  for (size_t i = 0; i + 4 <= weight.values().size(); i += 4) weight.values()[i + i / 4 % 3] = weight.values()[i + 3] = 0;
  return weight;
}

Matrix apply(const PackedMatrix& packed, ConstMatrixView x, int64_t out) {
  Matrix y(x.rows, out);
  packed.apply(x, y.view());
  return y;
}

/// Largest |y − W·x − b| of the dense product in f64, over what rounding to f32 can make of it: n·2⁻²⁴ · Σ|w||x| with n the
/// roundings of one sum, those of a product, an addition and the bias for every column (Higham, Accuracy and Stability, eq. 3.5).
double error_in_dense_bounds(ConstMatrixView weight, std::span<const float> bias, ConstMatrixView x, ConstMatrixView y) {
  double worst = 0;
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t r = 0; r < weight.rows; ++r) {
      double sum = bias.empty() ? 0.0 : bias[static_cast<size_t>(r)], magnitude = std::abs(sum);
      for (int64_t c = 0; c < weight.cols; ++c) {
        sum += double{weight.row(r)[c]} * x.row(t)[c];
        magnitude += std::abs(double{weight.row(r)[c]} * x.row(t)[c]);
      }
      const double error = std::abs(y.row(t)[r] - sum);
      worst = std::max(worst, error == 0 ? 0 : error / (static_cast<double>(2 * weight.cols + 1) * 0x1p-24 * magnitude));
    }
  return worst;
}

}  // namespace

TEST_CASE("Products that skip zeros equal the dense product, whatever the shape") {
  const struct {
    int64_t out, in;
  } shapes[] = {{1, 1}, {3, 127}, {5, 128}, {33, 129}, {31, 255}, {255, 33}, {257, 300}, {514, 40}};
  test::for_each_target([&] {
    for (const auto [out, in] : shapes)
      for (StripHeight height : heights)
        for (double kept : {0.0, 0.1, 0.5, 1.0})
          for (int64_t rows : {1, 17, 33, 64}) {
            CAPTURE(out, in, static_cast<int>(height), kept, rows);
            const Matrix weight = sparse_matrix(out, in, kept);
            const Matrix bias = test::random_matrix(1, out, "bias"), x = test::random_matrix(rows, in, "x");
            CHECK(error_in_dense_bounds(weight.view(), {}, x.view(), apply(*pack_strips(weight.view(), {}, height), x.view(), out).view()) <= 1);
            CHECK(error_in_dense_bounds(weight.view(), bias.values(), x.view(), apply(*pack_strips(weight.view(), bias.values(), height), x.view(), out).view()) <= 1);
          }
  });
}

TEST_CASE("Products that skip zeros give a row the same bits at any place of the tile, in strips of any height") {
  const Matrix weight = sparse_matrix(259, 301, 0.4), x = test::random_matrix(64, 301, "x");
  test::for_each_target([&] {
    const Matrix expected = apply(*pack_strips(weight.view(), {}, StripHeight::one), x.view(), 259);
    for (StripHeight height : heights) {
      const auto packed = pack_strips(weight.view(), {}, height);
      for (int64_t first : {0, 1, 31, 63})
        for (int64_t rows : {int64_t{1}, 64 - first}) CHECK(test::same_bits(apply(*packed, x.view().row_range(first, rows), 259).view(), expected.view().row_range(first, rows)));
    }
  });
}

TEST_CASE("Products that skip zeros read and write rows with a stride and leave what is between them") {
  const Matrix weight = sparse_matrix(20, 30, 0.5), wide = test::random_matrix(33, 50, "x");
  Matrix x(33, 30), y(33, 26);
  for (int64_t r = 0; r < 33; ++r) std::copy_n(wide.row(r) + 7, 30, x.row(r));
  std::ranges::fill(y.values(), 5.0f);
  const auto packed = pack_strips(weight.view(), {}, StripHeight::two);
  packed->apply(wide.view().column_range(7, 30), y.view().column_range(3, 20));
  CHECK(test::same_bits(y.view().column_range(3, 20), apply(*packed, x.view(), 20).view()));
  for (int64_t r = 0; r < 33; ++r)
    for (int64_t c : {0, 1, 2, 23, 24, 25}) CHECK(y.row(r)[c] == 5.0f);
}

TEST_CASE("A row with NaN or infinity gives a row of NaN, even where its weights are zero") {
  const Matrix weight = sparse_matrix(40, 30, 0.0, 1, 1);
  for (float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (StripHeight height : heights) {
      Matrix x = test::random_matrix(20, 30, "x");
      x.row(3)[29] = value;
      const Matrix y = apply(*pack_strips(weight.view(), {}, height), x.view(), 40);
      for (int64_t r = 0; r < 20; ++r)
        for (int64_t c = 0; c < 40; ++c) CHECK(std::isnan(y.row(r)[c]) == (r == 3));
    }
}

TEST_CASE("Zeros are skipped where they are many, in strips as high as their blocks") {
  CHECK_FALSE(find_strip_height(test::random_matrix(256, 256, "weight").view()));
  CHECK_FALSE(find_strip_height(sparse_matrix(256, 256, 0.7).view()));
  CHECK(find_strip_height(sparse_matrix(256, 256, 0.5).view()) == StripHeight::one);
  CHECK(find_strip_height(sparse_matrix(255, 253, 0.1).view()) == StripHeight::one);
  CHECK(find_strip_height(two_of_four(256, 256).view()) == StripHeight::one);
  CHECK(find_strip_height(sparse_matrix(256, 256, 0.5, 2, 8).view()) == StripHeight::two);
  CHECK(find_strip_height(sparse_matrix(256, 256, 0.5, 4, 4).view()) == StripHeight::four);
  CHECK(find_strip_height(sparse_matrix(256, 256, 0.6, 16, 16).view()) == StripHeight::four);
  CHECK_FALSE(find_strip_height(sparse_matrix(16, 16, 0.5).view()));  // transposing costs more than the product
  CHECK(find_strip_height(Matrix(256, 256).view()));
  CHECK_FALSE(find_strip_height(sparse_matrix(256, 256, 0.3).view(), 0.4));  // dense products take less time
  CHECK(find_strip_height(sparse_matrix(256, 256, 0.1).view(), 0.4) == StripHeight::one);
  CHECK_FALSE(find_strip_height(test::random_matrix(1100, 64, "weight").view()));  // a sample of whose rows decides
  CHECK(find_strip_height(sparse_matrix(1100, 256, 0.5).view()) == StripHeight::one);
  CHECK(find_strip_height(sparse_matrix(1100, 256, 0.6, 4, 4).view()) == StripHeight::four);
}

TEST_CASE("A Linear of a sparse weight skips its zeros in f32, unless told otherwise") {
  const Matrix x = test::random_matrix(200, 256, "x");
  for (MatmulBackend backend : test::backends()) {
    const bool is_fast = backend == MatmulBackend::amx || backend == MatmulBackend::highway;  // dense: half the zeros are too few to skip
    const Matrix weight = is_fast ? sparse_matrix(130, 256, 0.1) : two_of_four(130, 256);
    StoredTensor stored{.name = "weight", .dtype = DType::f32, .shape = {130, 256}};
    stored.form = make_floats(stored, weight.view());
    const Linear sparse(stored, nullptr, Precision::f32, backend);
    CHECK(sparse.is_sparse());
    CHECK_FALSE(Linear(stored, nullptr, Precision::f32, backend, Zeros::multiplied).is_sparse());
    CHECK_FALSE(Linear(stored, nullptr, Precision::bf16, backend).is_sparse());
    Matrix expected;
    with_threads(1, [&] { expected = test::apply(sparse, x.view()); });
    CHECK(error_in_dense_bounds(weight.view(), {}, x.view(), expected.view()) <= 1);
    for (int threads : {2, 5}) with_threads(threads, [&] { CHECK(test::same_bits(test::apply(sparse, x.view()).view(), expected.view())); });
  }
}

TEST_CASE("A transposed matrix is that, whatever the shape") {
  test::for_each_target([] {
    for (int64_t rows : {1, 3, 4, 17, 64})
      for (int64_t cols : {1, 4, 15, 16, 33, 255}) {
        const Matrix from = test::random_matrix(rows, cols + 3, "from");
        Matrix to(cols, rows + 2);
        transpose(from.view().column_range(3, cols), to.view().column_range(2, rows));
        for (int64_t r = 0; r < cols; ++r)
          for (int64_t c = 0; c < rows + 2; ++c) CHECK(to.row(r)[c] == (c < 2 ? 0.0f : from.row(c - 2)[r + 3]));
      }
  });
}
