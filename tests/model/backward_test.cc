#include "model/backward.h"

#include <array>
#include <cmath>
#include <cstring>

#include "core/parallel.h"
#include "model/attention.h"
#include "model/forward.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/linear_layers.h"
#include "tests/support.h"

using namespace llmc;

namespace {

/// As in tests/golden/make_backward.py.
Matrix wave(int64_t rows, int64_t cols, int number) {
  Matrix matrix(rows, cols);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) matrix.row(r)[c] = static_cast<float>(std::sin(1.7 * static_cast<double>(r) + 0.9 * static_cast<double>(c) + 0.013 * static_cast<double>(r * c) + number));
  return matrix;
}

/// The rows of `dense` in their places.
Matrix spread(const SequenceRows& sequences, const Matrix& dense) {
  Matrix result(sequences.rows, dense.cols());
  int64_t next = 0;
  for (const auto& [first, length] : sequences.ranges)
    for (int64_t r = 0; r < length; ++r) std::copy_n(dense.row(next++), dense.cols(), result.row(first + r));
  return result;
}

/// Zeros of the shapes of `values`.
BlockTensors zeros_like(const BlockTensors& values) {
  BlockTensors zeros;
  for (const auto& [place, matrix] : values) zeros(place.first, place.second) = Matrix(matrix.rows(), matrix.cols());
  return zeros;
}

struct BlockRun {
  Matrix out;
  Matrix d_hidden;
  BlockTensors gradients;
};

BlockRun run(const Model& model, const SequenceRows& sequences, const Matrix& hidden, const Matrix& d_out, Precision precision, MatmulBackend backend) {
  const BlockTensors values = read_block(model, 0);
  TrainableBlock block(model.config().at_block(0), precision, backend);
  block.set(values);
  BlockTape tape;
  BlockRun result{Matrix(sequences.rows, hidden.cols()), Matrix(sequences.rows, hidden.cols()), zeros_like(values)};
  for (int time = 0; time < 2; ++time) {  // the second run finds the tape used, and adds to the gradients
    block.run(sequences, hidden.view(), result.out.view(), tape);
    block.backpropagate(sequences, hidden.view(), d_out.view(), tape, result.d_hidden.view(), result.gradients);
  }
  return result;
}

Model load(const std::string& name) { return load_model(golden_root() / name, {}, test::context()); }

/// The largest difference over the largest value.
double relative_error(std::span<const double> found, std::span<const float> expected) {
  double worst = 0, largest = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    worst = std::max(worst, std::abs(found[i] - expected[i]));
    largest = std::max(largest, std::abs(double{expected[i]}));
  }
  if (largest < 1e-9) return worst < 1e-4 ? 0 : worst;  // softmax does not see the bias of keys that are not rotated: its gradient is rounding
  return worst / largest;
}

}  // namespace

TEST_CASE("A block's gradients are those of PyTorch's autograd") {
  const SequenceRows sequences(std::array<int64_t, 2>{70, 9});
  for (const auto& file : std::filesystem::directory_iterator(golden_root() / "../backward"))
    for (MatmulBackend backend : test::backends()) {
      const std::string name = file.path().stem();
      CAPTURE(name, to_string(backend));
      const Model model = load(name);
      const int64_t width = model.config().hidden;
      const BlockRun result = run(model, sequences, spread(sequences, wave(79, width, 1)), spread(sequences, wave(79, width, 2)), Precision::f32, backend);
      const auto expected = read_golden<float>(file.path(), DType::f32);
      std::span<const float> rest = expected.values;
      const auto check = [&](const std::vector<double>& found) {
        REQUIRE(found.size() <= rest.size());
        CHECK(relative_error(found, rest.first(found.size())) <= 2e-5);  // f32 sums of some hundred terms: 1e-6 and less, where they nearly cancel 1.4e-5
        rest = rest.subspan(found.size());
      };
      std::vector<double> d_hidden;
      for (const auto& [first, length] : sequences.ranges)
        for (int64_t r = first; r < first + length; ++r) d_hidden.insert(d_hidden.end(), result.d_hidden.row(r), result.d_hidden.row(r) + width);
      check(d_hidden);
      std::map<std::string, const Matrix*> by_name;
      for (const PlacedTensor& placed : model.tensors())
        if (placed.block == 0) by_name[placed.tensor->name] = result.gradients.find(placed.row->role, placed.part);
      for (const auto& [tensor, gradient] : by_name) {
        CAPTURE(tensor);
        const Matrix v = wave(1, gradient->cols(), 3), u = wave(1, gradient->rows(), 4);
        std::vector<double> times_v(static_cast<size_t>(gradient->rows())), u_times(static_cast<size_t>(gradient->cols()));
        for (int64_t r = 0; r < gradient->rows(); ++r)
          for (int64_t c = 0; c < gradient->cols(); ++c) {
            const double value = gradient->row(r)[c] / 2;  // of two runs
            times_v[static_cast<size_t>(r)] += value * v.row(0)[c];
            u_times[static_cast<size_t>(c)] += u.row(0)[r] * value;
          }
        check(times_v);
        check(u_times);
      }
      CHECK(rest.empty());
    }
}

TEST_CASE("A block forward is Forward's, and bf16 gradients are close to f32's") {
  const SequenceRows sequences(std::array<int64_t, 3>{64, 70, 1});
  for (const char* name : {"llama-gqa-tied", "gpt2-untied", "phi3-part", "olmo2", "gemma2", "gpt-neox", "bloom", "falcon", "falcon-groups", "falcon-refined", "phi3-longrope"})
    for (MatmulBackend backend : test::backends()) {
      CAPTURE(name, to_string(backend));
      const Model model = load(name);
      const Matrix hidden = spread(sequences, wave(135, model.config().hidden, 1)), d_out = spread(sequences, wave(135, model.config().hidden, 2));
      const BlockRun exact = run(model, sequences, hidden, d_out, Precision::f32, backend);
      for (Precision precision : {Precision::f32, Precision::bf16}) {
        const BlockRun result = run(model, sequences, hidden, d_out, precision, backend);
        const Forward forward(model, {.precision = precision, .backend = backend});
        const auto weights = forward.load_block(0);
        for (const auto& [first, length] : sequences.ranges) {
          Matrix states(length, hidden.cols());
          std::copy_n(hidden.row(first), states.values().size(), states.values().data());
          forward.run_block(*weights, states.view());
          CHECK(std::memcmp(states.values().data(), result.out.row(first), states.values().size_bytes()) == 0);
        }
        for (const auto& [place, gradient] : exact.gradients) {
          const auto found = result.gradients.find(place.first, place.second)->values();
          double dot = 0, found_norm = 0, norm = 0;
          for (size_t i = 0; i < found.size(); ++i) dot += double{found[i]} * gradient.values()[i], found_norm += double{found[i]} * found[i], norm += double{gradient.values()[i]} * gradient.values()[i];
          CHECK(dot / std::sqrt(found_norm * norm) >= 0.999);  // bf16 has 8 bits: errors of 0.4 % in operands, at random
          CHECK(std::sqrt(found_norm / norm) == Approx(1).epsilon(0.01));
        }
      }
    }
}

TEST_CASE("Gradients are the same bits for any number of threads, and only those asked for") {
  const SequenceRows sequences(std::array<int64_t, 3>{130, 64, 200});
  const Model model = load("llama-gqa-tied");
  const Matrix hidden = spread(sequences, wave(394, 64, 1)), d_out = spread(sequences, wave(394, 64, 2));
  for (MatmulBackend backend : test::backends())
    for (Precision precision : {Precision::f32, Precision::bf16}) {
      BlockRun expected;
      with_threads(1, [&] { expected = run(model, sequences, hidden, d_out, precision, backend); });
      for (int threads : {2, 5}) {
        BlockRun found;
        with_threads(threads, [&] { found = run(model, sequences, hidden, d_out, precision, backend); });
        CHECK(test::same_bits(found.out, expected.out));
        CHECK(test::same_bits(found.d_hidden, expected.d_hidden));
        for (const auto& [place, gradient] : expected.gradients) CHECK(test::same_bits(gradient, *found.gradients.find(place.first, place.second)));
      }
      TrainableBlock block(model.config().at_block(0), precision, backend);
      block.set(read_block(model, 0));
      BlockTape tape;
      Matrix out(sequences.rows, 64);
      BlockTensors wanted;
      wanted(Role::query) = Matrix(64, 64);
      block.run(sequences, hidden.view(), out.view(), tape);
      block.backpropagate(sequences, hidden.view(), d_out.view(), tape, {}, wanted);
      block.run(sequences, hidden.view(), out.view(), tape);
      block.backpropagate(sequences, hidden.view(), d_out.view(), tape, {}, wanted);
      CHECK(test::same_bits(wanted.get(Role::query), expected.gradients.get(Role::query)));
      CHECK(std::distance(wanted.begin(), wanted.end()) == 1);
    }
}
