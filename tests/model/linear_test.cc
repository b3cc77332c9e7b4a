#include "model/linear.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <thread>

#include "core/parallel.h"
#include "model/kernels.h"
#include "tests/catch.h"
#include "tests/linear_layers.h"
#include "tests/support.h"

using namespace llmc;

namespace {

StoredTensor store(const Matrix& matrix, Shape shape) {
  StoredTensor tensor{.name = "weight", .dtype = DType::f32, .shape = std::move(shape)};
  tensor.form = make_floats(tensor, matrix.view());
  return tensor;
}

/// Largest |y − alpha · a · op(b)| over what rounding every product and sum to f32 can make of it: n·2⁻²⁴ · Σ|a||b|
/// (Higham, Accuracy and Stability, eq. 3.5); at most 1 for a right product.
double error_in_bounds(ConstMatrixView a, ConstMatrixView b, Transpose transpose_b, double alpha, std::span<const float> bias, DType operands, ConstMatrixView y) {
  double worst = 0;
  for (int64_t r = 0; r < y.rows; ++r)
    for (int64_t c = 0; c < y.cols; ++c) {
      double sum = bias.empty() ? 0.0 : bias[static_cast<size_t>(c)];
      double magnitude = std::abs(sum);
      for (int64_t k = 0; k < a.cols; ++k) {
        const double product = alpha * round_to(operands, a.row(r)[k]) * round_to(operands, transpose_b == Transpose::yes ? b.row(c)[k] : b.row(k)[c]);
        sum += product;
        magnitude += std::abs(product);
      }
      const double bound = static_cast<double>(a.cols + 2) * 0x1p-24 * magnitude;
      worst = std::max(worst, std::abs(y.row(r)[c] - sum) / bound);
    }
  return worst;
}

bool have_same_bits(const Matrix& a, const Matrix& b) { return std::ranges::equal(a.values(), b.values()); }

int64_t count_threads() {
  int64_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) count += entry.is_directory();
  return count;
}

}  // namespace

TEST_CASE("Linear multiplies, whatever the shape") {
  const struct {
    int64_t out, in;
  } shapes[] = {{1, 1}, {3, 48}, {33, 31}, {31, 255}, {255, 33}, {64, 172}, {361, 128}, {128, 256}, {33000, 3}, {7, 8200}};
  for (MatmulBackend backend : test::backends())
    for (Precision precision : {Precision::f32, Precision::bf16})
      for (const auto [out, in] : shapes)
        for (int64_t rows : {1, 31, 33, 64, 81, 128, 199}) {
          CAPTURE(to_string(backend), to_string(precision), out, in, rows);
          const Matrix weight = test::random_matrix(out, in, "weight");
          const Matrix bias = test::random_matrix(1, out, "bias");
          const Matrix x = test::random_matrix(rows, in, "x");
          const StoredTensor stored_weight = store(weight, {out, in});
          const StoredTensor stored_bias = store(bias, {out});
          const DType operands = precision == Precision::f32 ? DType::f32 : DType::bf16;  // a product of two bf16 is exact in f32
          const Matrix plain = test::apply(Linear(stored_weight, nullptr, precision, backend), x.view());
          CHECK(error_in_bounds(x.view(), weight.view(), Transpose::yes, 1, {}, operands, plain.view()) <= 1);
          const Matrix biased = test::apply(Linear(stored_weight, &stored_bias, precision, backend), x.view());
          CHECK(error_in_bounds(x.view(), weight.view(), Transpose::yes, 1, bias.values(), operands, biased.view()) <= 1);
        }
}

TEST_CASE("Products are as good as f32's, whatever the type of the weights") {
  for (MatmulBackend backend : test::backends())
    for (DType dtype : {DType::bf16, DType::f16, DType::f32}) {
      CAPTURE(to_string(backend), get_info(dtype).name);
      Matrix weight = test::random_matrix(70, 300, "weight");
      for (float& value : weight.values()) value = round_to(dtype, value);
      StoredTensor stored{.name = "weight", .dtype = dtype, .shape = {70, 300}};
      stored.form = make_floats(stored, weight.view());
      const Matrix x = test::random_matrix(90, 300, "x"), y = test::apply(Linear(stored, nullptr, Precision::f32, backend), x.view());
      CHECK(error_in_bounds(x.view(), weight.view(), Transpose::yes, 1, {}, DType::f32, y.view()) <= 1);
    }
}

TEST_CASE("A row that holds NaN or infinity is not finite in any output, and concerns no other row") {
  const Matrix weight = test::random_matrix(45, 70, "weight");
  for (MatmulBackend backend : test::backends())
    for (Precision precision : {Precision::f32, Precision::bf16})
      for (float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()})
        for (int64_t rows : {9, 40}) {
          CAPTURE(to_string(backend), to_string(precision), value, rows);
          Matrix x = test::random_matrix(rows, 70, "x");
          x.row(4)[69] = value;
          const Matrix y = test::apply(Linear(weight.view(), {}, precision, backend), x.view());
          for (int64_t r = 0; r < rows; ++r)
            for (float result : y.view().row_span(r)) CHECK(std::isfinite(result) == (r != 4));
        }
}

TEST_CASE("Linear reads GPT-2's transposed weights") {
  const Matrix weight = test::random_matrix(40, 24, "weight");
  StoredTensor stored{.name = "weight", .dtype = DType::f32, .shape = {24, 40}, .transposed = true};
  stored.form = make_floats(stored, weight.view());
  const Matrix x = test::random_matrix(5, 24, "x");
  for (MatmulBackend backend : test::backends()) {
    const Linear linear(stored, nullptr, Precision::f32, backend);
    CHECK(linear.out() == 40);
    CHECK(linear.in() == 24);
    CHECK(error_in_bounds(x.view(), weight.view(), Transpose::yes, 1, {}, DType::f32, test::apply(linear, x.view()).view()) <= 1);
  }
}

TEST_CASE("Linear gives a row the same bits for any number of rows and of threads") {
  constexpr int64_t most = 512;
  const struct {
    int64_t out, in;
  } shapes[] = {{64, 172}, {255, 33}, {361, 1000}, {256, 768}, {300, 2816}};
  for (MatmulBackend backend : test::backends())
    for (Precision precision : {Precision::f32, Precision::bf16})
      for (const auto [out, in] : shapes) {
        CAPTURE(to_string(backend), to_string(precision), out, in);
        const StoredTensor bias = store(test::random_matrix(1, out, "bias"), {out});
        const Linear linear(store(test::random_matrix(out, in, "weight"), {out, in}), &bias, precision, backend);
        const Matrix x = test::random_matrix(most, in, "x");
        Matrix expected;
        with_threads(1, [&] { expected = test::apply(linear, x.view()); });
        for (int threads : {2, 5}) with_threads(threads, [&] { CHECK(test::same_bits(test::apply(linear, x.view()).view(), expected.view())); });
        for (int64_t rows : {1, 2, 16, 31, 33, 64, 65, 127, 255}) {
          CAPTURE(rows);
          CHECK(test::same_bits(test::apply(linear, x.view().row_range(0, rows)).view(), expected.view().row_range(0, rows)));
        }
      }
}

TEST_CASE("Joined products and gated units give, bit for bit, what their parts do") {
  const Precision precisions[] = {Precision::f32, Precision::bf16};
  for (MatmulBackend backend : test::backends())
    for (Precision precision : precisions)
      for (const auto [in, out, after] : {std::array<int64_t, 3>{31, 40, 7}, {64, 96, 64}, {600, 70, 45}, {1100, 33, 34}})
        for (int64_t rows : {1, 17, 64, 300}) {
          CAPTURE(to_string(backend), to_string(precision), in, out, after, rows);
          const StoredTensor gate = store(test::random_matrix(out, in, "gate"), {out, in}), up = store(test::random_matrix(out, in, "up"), {out, in}), down = store(test::random_matrix(after, out, "down"), {after, out}), other = store(test::random_matrix(after, in, "other"), {after, in});
          const StoredTensor up_bias = store(test::random_matrix(1, out, "bias"), {out}), down_bias = store(test::random_matrix(1, after, "down bias"), {after});
          const Linear gate_alone(gate, nullptr, precision, backend), up_alone(up, &up_bias, precision, backend), down_alone(down, &down_bias, precision, backend), other_alone(other, nullptr, precision, backend);
          const Matrix x = test::random_matrix(rows, in, "x"), hidden = test::random_matrix(rows, after, "hidden");
          const Matrix of_gate = test::apply(gate_alone, x.view()), of_up = test::apply(up_alone, x.view()), of_other = test::apply(other_alone, x.view());

          Matrix unit = of_gate;
          activate(Activation::silu, unit.values());
          multiply_by(unit.values(), of_up.values());
          const Matrix change = test::apply(down_alone, unit.view());
          Matrix sum = hidden, added = hidden, through = hidden;
          add_to(sum.values(), change.values());
          down_alone.add(unit.view(), added.view());
          CHECK(have_same_bits(added, sum));

          const StoredLinear parts[] = {{gate, nullptr}, {up, &up_bias}, {other, nullptr}};
          const auto joined = Linear::make_joined(parts, precision, backend, Zeros::multiplied);
          const auto gated = Linear::make_gated({gate, nullptr}, {up, &up_bias}, Activation::silu, precision, backend, Zeros::multiplied);
          CHECK(joined.has_value() == (backend == MatmulBackend::amx || backend == MatmulBackend::highway));
          CHECK(gated.has_value() == (backend == MatmulBackend::amx));
          if (!joined) continue;
          const Matrix all = test::apply(*joined, x.view());
          bool is_same = true;
          for (int64_t r = 0; r < rows; ++r) is_same &= std::ranges::equal(all.view().column_range(0, out).row_span(r), of_gate.view().row_span(r)) && std::ranges::equal(all.view().column_range(out, out).row_span(r), of_up.view().row_span(r)) && std::ranges::equal(all.view().column_range(2 * out, after).row_span(r), of_other.view().row_span(r));
          CHECK(is_same);
          if (!gated) continue;
          CHECK(have_same_bits(test::apply(*gated, x.view()), unit));
          CHECK(gated->add_through(down_alone, x.view(), through.view()));
          CHECK(have_same_bits(through, sum));
          CHECK_FALSE(gated->add_through(Linear(StoredTensor(store(Matrix(after, out), {after, out})), nullptr, Precision::f32, MatmulBackend::eigen), x.view(), through.view()));
          CHECK(have_same_bits(through, sum));
        }
}

TEST_CASE("Weights whose zeros are skipped, or whose input is rounded, are not joined") {
  const StoredTensor dense = store(test::random_matrix(64, 64, "dense"), {64, 64}), zeros = store(Matrix(64, 64), {64, 64});
  for (MatmulBackend backend : test::backends()) {
    CHECK_FALSE(Linear::make_gated({dense, nullptr}, {zeros, nullptr}, Activation::silu, Precision::f32, backend, Zeros::skipped));
    CHECK_FALSE(Linear::make_joined(std::array<StoredLinear, 2>{{{dense, nullptr}, {zeros, nullptr}}}, Precision::f32, backend, Zeros::skipped));
    CHECK(Linear::make_gated({dense, nullptr}, {zeros, nullptr}, Activation::silu, Precision::bf16, backend, Zeros::skipped).has_value() == (backend == MatmulBackend::amx));
  }
}

TEST_CASE("Linear reads and writes rows with a stride and leaves what is between them") {
  for (MatmulBackend backend : test::backends())
    for (Precision precision : {Precision::f32, Precision::bf16})
      for (int64_t rows : {1, 33, 64, 130}) {
        const Linear linear(store(test::random_matrix(20, 30, "weight"), {20, 30}), nullptr, precision, backend);
        const Matrix x = test::random_matrix(rows, 50, "x");
        Matrix dense(rows, 30);
        for (int64_t r = 0; r < rows; ++r) std::copy_n(x.row(r) + 7, 30, dense.row(r));
        Matrix y(rows, 26);
        std::ranges::fill(y.values(), 5.0f);
        linear.apply(x.view().column_range(7, 30), y.view().column_range(3, 20));
        CHECK(test::same_bits(y.view().column_range(3, 20), test::apply(linear, dense.view()).view()));
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c : {0, 1, 2, 23, 24, 25}) CHECK(y.row(r)[c] == 5.0f);
      }
}

TEST_CASE("multiply scales and transposes") {
  for (MatmulBackend backend : test::backends())
    for (Transpose transpose : {Transpose::no, Transpose::yes})
      for (int64_t rows : {1, 31, 64})
        for (int64_t cols : {1, 33, 255})
          for (int64_t inner : {1, 16, 31, 255}) {
            CAPTURE(to_string(backend), transpose == Transpose::yes, rows, cols, inner);
            const Matrix a = test::random_matrix(rows, inner + 3, "a");
            const Matrix b = transpose == Transpose::yes ? test::random_matrix(cols, inner + 5, "b") : test::random_matrix(inner, cols + 5, "b");
            Matrix c(rows, cols + 2);
            std::ranges::fill(c.values(), std::nanf(""));  // must be overwritten, not added to
            const ConstMatrixView left = a.view().column_range(3, inner);
            const ConstMatrixView right = b.view().column_range(2, transpose == Transpose::yes ? inner : cols);
            multiply(backend, 0.25f, left, right, transpose, c.view().column_range(1, cols));
            CHECK(error_in_bounds(left, right, transpose, 0.25, {}, DType::f32, c.view().column_range(1, cols)) <= 1);
          }
}

TEST_CASE("A transposed product adds, and the gradient of a weight is one") {
  const auto transpose = [](const Matrix& x) {
    Matrix result(x.cols(), x.rows());
    for (int64_t r = 0; r < x.rows(); ++r)
      for (int64_t c = 0; c < x.cols(); ++c) result.row(c)[r] = x.row(r)[c];
    return result;
  };
  for (MatmulBackend backend : test::backends())
    for (int64_t depth : {1, 31, 64, 1100})
      for (int64_t rows : {1, 33, 130})
        for (int64_t cols : {1, 48, 255}) {
          CAPTURE(to_string(backend), depth, rows, cols);
          const Matrix a = test::random_matrix(depth, rows, "a"), b = test::random_matrix(depth, cols, "b");
          const auto error = [&](Precision precision, const Matrix& twice) {
            Matrix half(rows, cols);
            for (size_t i = 0; i < half.values().size(); ++i) half.values()[i] = twice.values()[i] / 2;
            return error_in_bounds(transpose(a).view(), b.view(), Transpose::no, 1, {}, precision == Precision::f32 ? DType::f32 : DType::bf16, half.view());
          };
          Matrix c(rows, cols);
          add_transposed_product(backend, 0.5f, a.view(), b.view(), c.view());
          add_transposed_product(backend, 1.5f, a.view(), b.view(), c.view());
          CHECK(error(Precision::f32, c) <= 1);
          for (Precision precision : {Precision::f32, Precision::bf16}) {
            CAPTURE(to_string(precision));
            const auto add_twice = [&](int threads) {
              Matrix gradient(rows, cols);
              with_threads(threads, [&] {
                for (int time = 0; time < 2; ++time) add_weight_gradient(backend, precision, a.view(), b.view(), gradient.view());
              });
              return gradient;
            };
            const Matrix gradient = add_twice(1);
            CHECK(error(precision, gradient) <= 1);
            CHECK(test::same_bits(add_twice(5).view(), gradient.view()));
          }
        }
}

TEST_CASE("The upper triangle of a second moment is that of the whole product") {
  for (MatmulBackend backend : test::backends())
    for (Precision precision : {Precision::f32, Precision::bf16})
      for (int64_t tokens : {1, 31, 1100})
        for (int64_t in : {1, 33, 128, 300}) {
          CAPTURE(to_string(backend), to_string(precision), tokens, in);
          const Matrix x = test::random_matrix(tokens, in, "x");
          Matrix whole(in, in), upper(in, in);
          for (int time = 0; time < 2; ++time) {
            add_weight_gradient(backend, precision, x.view(), x.view(), whole.view());
            add_second_moment(backend, precision, x.view(), upper.view());
          }
          for (int64_t i = 0; i < in; ++i)  // a product of other width may add in another order: within its error bound, not always its bits
            for (int64_t j = i; j < in; ++j) CHECK(upper.row(i)[j] == Approx(whole.row(i)[j]).epsilon(1e-5).margin(1e-4));
        }
}

TEST_CASE("A product runs on the thread that asks for it and starts no other") {
  // OpenMP keeps the threads it starts, so they would still be there to count.
  const Linear linear(store(test::random_matrix(512, 512, "weight"), {512, 512}), nullptr, Precision::f32, default_backend());
  const Matrix x = test::random_matrix(1024, 512, "x");
  Matrix scores(1024, 1024);
  std::thread([&] {
    const int64_t before = count_threads();
    multiply(default_backend(), 1, x.view(), x.view(), Transpose::yes, scores.view());
    test::apply(linear, x.view().row_range(0, 64));
    CHECK(count_threads() <= before);
  }).join();
}
