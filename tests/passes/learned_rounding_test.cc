#include "passes/learned_rounding.h"

#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/parallel.h"
#include "model/forward.h"
#include "passes/learned_grid.h"
#include "passes/rounding.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;

namespace {

constexpr const char* schemes[] = {"W4A16-g16-symmetric", "W3A16-g8-linear", "W2A16-channel-linear", "W3A16-tensor-symmetric", "FP8A16", "NVFP4A16", "MXFP4A16", "NF4-g16", "codebook6-channel", "codebook16-g32"};

QuantizedMatrix round_plainly(const Matrix& weights, const std::string& name, DType scale_dtype = DType::bf16) {
  const Scheme scheme = parse_scheme(name);
  return round_to_nearest(weights.view(), scheme, scheme.scale == ScaleKind::floating ? scale_dtype : scale_dtype_for(scheme, DType::bf16), {.rule = RangeRule::mse}, "w");
}

/// Sequences of noise, and what the float block makes of them.
struct Problem {
  Model model;
  BlockTensors values;
  std::vector<Matrix> inputs, targets;
  std::map<Role, QuantizedMatrix> start;
  BlockSamples samples;

  Problem(const std::string& name, const std::string& scheme) : model(load_model(golden_root() / name, {}, test::context())), values(read_block(model, 0)) {
    const Forward forward(model, {});
    const auto block = forward.load_block(0);
    for (int64_t length : {40, 64, 70, 5}) {
      inputs.push_back(test::random_matrix(length, model.config().hidden, "input " + std::to_string(length)));
      targets.push_back(inputs.back());
      forward.run_block(*block, targets.back().view());
      samples.lengths.push_back(length);
    }
    for (const auto& [place, matrix] : values)
      if (place.second == Part::weight && matrix.rows() > 1) start.emplace(place.first, round_plainly(matrix, scheme));
    samples.read = [this](size_t s, MatrixView input, MatrixView target) {
      for (int64_t r = 0; r < input.rows; ++r) {
        std::ranges::copy(inputs[s].view().row_span(r), input.row(r));
        std::ranges::copy(targets[s].view().row_span(r), target.row(r));
      }
    };
  }
  Problem(const Problem&) = delete;

  LearnedRounding learn(const LearnedRoundingOptions& options) const { return learn_rounding(model.config(), values, start, samples, options, "block 0", test::context()); }
};

}  // namespace

TEST_CASE("A learned grid starts where it is told and stores what it runs with") {
  for (const char* scheme : schemes) {
    CAPTURE(scheme);
    const Matrix weights = test::random_matrix(13, 96, "weights");
    QuantizedMatrix start = round_plainly(weights, scheme);
    for (size_t i = 0; i < start.codes.size(); i += 7) start.codes[i] = static_cast<int8_t>(start.scheme.lowest_code());  // as another method may have it
    LearnedGrid grid(weights.view(), start);
    Matrix values(13, 96);
    grid.write_values(values);
    CHECK(test::same_bits(values, dequantize(start)));
    CHECK(grid.quantized() == start);
    for (int step = 0; step < 30; ++step) grid.update(test::random_matrix(13, 96, "gradient " + std::to_string(step)), {.rounding = 0.2f, .scale = 0.01f});
    grid.write_values(values);
    const QuantizedMatrix learned = grid.quantized();
    CHECK(test::same_bits(values, dequantize(learned)));
    CHECK(learned.codes != start.codes);
    if (!start.scales.empty() && start.scheme.scale != ScaleKind::power_of_two) CHECK(learned.scales != start.scales);
    CHECK(learned.centroids == start.centroids);
    CHECK(learned.zero_points == start.zero_points);
    for (int8_t code : learned.codes) CHECK((code >= learned.scheme.lowest_code() && code <= learned.scheme.highest_code()));
    for (float scale : learned.scales) CHECK(scale == round_to(start.scale_dtype, scale));
  }
}

TEST_CASE("A learned grid goes down the gradient: offsets and scales each") {
  const Matrix weights = test::random_matrix(4, 32, "weights");
  const Matrix target = test::random_matrix(4, 32, "target");
  for (const char* scheme : schemes) {
    const QuantizedMatrix start = round_plainly(weights, scheme, DType::f32);
    const auto distance = [&](const Matrix& values) {
      double sum = 0;
      for (size_t i = 0; i < values.values().size(); ++i) sum += std::pow(values.values()[i] - target.values()[i], 2);
      return sum;
    };
    const float far = start.scheme.bits == 8 ? 1.0f : 0.1f;  // codes a step, so that 50 steps lead anywhere
    for (const LearningRates& rates : {LearningRates{.rounding = far}, LearningRates{.scale = 0.02f}}) {
      if (rates.scale > 0 && (start.scales.empty() || start.scheme.scale == ScaleKind::power_of_two)) continue;
      CAPTURE(scheme, rates.rounding, rates.scale);
      LearnedGrid grid(weights.view(), start);
      Matrix values(4, 32), gradient(4, 32);
      grid.write_values(values);
      const double before = distance(values);
      for (int step = 0; step < 50; ++step) {
        for (size_t i = 0; i < values.values().size(); ++i) gradient.values()[i] = 2 * (values.values()[i] - target.values()[i]);
        grid.update(gradient, rates);
        grid.write_values(values);
      }
      CHECK(distance(values) < (rates.rounding > 0 ? 0.5 : 0.95) * before);  // any code can be reached, but one scale serves many
    }
  }
}

namespace {

/// A learned grid for a matrix whose every row is a span, one weight at a time.
class PlainLearnedGrid {
 public:
  PlainLearnedGrid(const Matrix& weights, const QuantizedMatrix& start) : weights_(weights), start_(start), moments_(start.codes.size()), scales_(static_cast<size_t>(start.rows)) {
    for (int64_t r = 0; r < start.rows; ++r)
      for (int64_t c = 0; c < start.cols; ++c) {
        // Where the weight lies: among evenly spaced codes, or by linear interpolation in the table of levels; beyond its ends, at the code.
        const Grid grid = get_grid(start, r);
        const float w = weights.row(r)[c], code = start.codes[index(r, c)];
        float place = grid.is_even() ? w / grid.scale + grid.zero : code;
        for (float low = grid.lowest; !grid.is_even() && low < grid.highest; ++low)
          if (const float a = grid.value(low), b = grid.value(low + 1); a < b && w >= a && w <= b) place = low + (w - a) / (b - a);
        positions_.push_back(std::clamp(place, code - 0.25f, code + 0.25f));
      }
  }

  void update(const Matrix& gradient, const LearningRates& rates) {
    ++steps_;
    for (int64_t r = 0; r < start_.rows; ++r) {
      const Grid grid = get_grid(start_, r);
      double toward = 0;
      for (int64_t c = 0; c < start_.cols; ++c) {
        float& position = positions_[index(r, c)];
        const float g = weights_.row(r)[c] == 0 ? 0 : std::copysign(1.0f, grid.scale) * gradient.row(r)[c];  // of the code: ŵ falls with it where the scale is negative
        toward += g * grid.value(code_of(position, grid)) / grid.scale;
        position = std::clamp(position - rates.rounding * moments_[index(r, c)].step(g, rates, steps_), grid.lowest - 0.5f, grid.highest + 0.5f);
      }
      scales_[static_cast<size_t>(r)].change -= rates.scale * scales_[static_cast<size_t>(r)].moments.step(static_cast<float>(toward), rates, steps_);
    }
  }

  QuantizedMatrix quantized() const {
    QuantizedMatrix result = start_;
    for (int64_t r = 0; r < result.rows; ++r) {
      Grid grid = get_grid(start_, r);
      for (int64_t c = 0; c < result.cols; ++c) result.codes[index(r, c)] = static_cast<int8_t>(code_of(positions_[index(r, c)], grid));
      if (!result.scales.empty()) result.scales[static_cast<size_t>(r)] = round_to(result.scale_dtype, grid.scale * (1 + scales_[static_cast<size_t>(r)].change));
    }
    return result;
  }

 private:
  struct Moments {
    double mean = 0, square = 0;
    float step(double g, const LearningRates& rates, int steps) {
      mean = rates.decay.momentum * mean + (1 - rates.decay.momentum) * g;
      square = rates.decay.memory * square + (1 - rates.decay.memory) * g * g;
      return static_cast<float>(mean / (1 - std::pow(rates.decay.momentum, steps)) / (std::sqrt(square / (1 - std::pow(rates.decay.memory, steps))) + rates.decay.epsilon));
    }
  };
  struct ScaleState {
    float change = 0;
    Moments moments;
  };
  size_t index(int64_t r, int64_t c) const { return static_cast<size_t>(r * start_.cols + c); }
  static float code_of(float position, const Grid& grid) { return std::clamp(std::nearbyint(position), grid.lowest, grid.highest); }

  const Matrix& weights_;
  QuantizedMatrix start_;
  std::vector<float> positions_;  ///< in codes, zero point included
  std::vector<Moments> moments_;
  std::vector<ScaleState> scales_;
  int steps_ = 0;
};

}  // namespace

TEST_CASE("A learned grid moves as one that goes weight by weight does, whatever the width of a row") {
  for (int64_t cols : {1, 31, 33, 255})
    for (const char* scheme : {"W4A16-channel-symmetric", "W3A16-channel-linear", "FP8A16", "NF4-channel", "codebook6-channel"}) {
      CAPTURE(cols, scheme);
      Matrix weights = test::random_matrix(7, cols, "weights");
      for (size_t i = 0; i < weights.values().size(); i += 5) weights.values()[i] = 0;
      const QuantizedMatrix start = round_plainly(weights, scheme, DType::f32);
      LearnedGrid grid(weights.view(), start);
      PlainLearnedGrid plain(weights, start);
      for (int step = 0; step < 20; ++step) {
        const Matrix gradient = test::random_matrix(7, cols, "gradient " + std::to_string(step));
        grid.update(gradient, {.rounding = 0.2f, .scale = 0.01f});
        plain.update(gradient, {.rounding = 0.2f, .scale = 0.01f});
      }
      const QuantizedMatrix found = grid.quantized(), expected = plain.quantized();
      int64_t different = 0;
      for (size_t i = 0; i < expected.codes.size(); ++i) different += found.codes[i] != expected.codes[i];
      CHECK(static_cast<double>(different) <= 0.005 * static_cast<double>(expected.codes.size()));  // sums in f32 and f64 may end on two sides of a border
      for (size_t i = 0; i < expected.scales.size(); ++i) CHECK(found.scales[i] == Approx(expected.scales[i]).epsilon(1e-3));
      if (cols > 1) CHECK(found.codes != start.codes);
    }
}

TEST_CASE("A learned grid keeps pruned weights at 0, whatever the width of a row") {
  for (int64_t cols : {1, 15, 33, 255})
    for (const char* scheme : {"W4A16-channel-symmetric", "W3A16-tensor-linear", "FP8A16-tensor", "NF4-channel"}) {
      CAPTURE(cols, scheme);
      Matrix weights = test::random_matrix(5, cols, "weights");
      for (size_t i = 0; i < weights.values().size(); i += 3) weights.values()[i] = 0;
      LearnedGrid grid(weights.view(), round_plainly(weights, scheme));
      const Matrix before = dequantize(grid.quantized());
      for (int step = 0; step < 10; ++step) grid.update(test::random_matrix(5, cols, "gradient"), {.rounding = 0.3f, .scale = 0.01f});
      Matrix after(5, cols);
      grid.write_values(after);
      for (size_t i = 0; i < weights.values().size(); ++i) {
        if (weights.values()[i] == 0) CHECK(after.values()[i] == 0);
        else CHECK((before.values()[i] != after.values()[i] || std::abs(before.values()[i]) < 1e-6));  // the scale moved at least
      }
    }
}

TEST_CASE("Learned rounding brings a block's output closer, on every architecture and scheme") {
  for (const char* model : {"llama-gqa-tied", "llama-bias", "gpt2-untied", "qwen2-untied", "qwen3-untied"})
    for (const char* scheme : {"W3A16-g8-symmetric", "W2A16-g8-linear", "W4A16-channel-symmetric", "NF4-g8", "codebook8-channel"}) {
      CAPTURE(model, scheme);
      const Problem problem(model, scheme);
      const LearnedRounding result = problem.learn({.iterations = 60, .batch = 2, .rounding_rate = 0.03f, .scale_rate = 0.005f});
      CHECK(result.error_before > 0);
      CHECK(result.error_after < 0.8 * result.error_before);
      CHECK(result.weights.size() == problem.start.size());
      for (const auto& [role, matrix] : result.weights) {
        CHECK(matrix.scheme == parse_scheme(scheme));
        CHECK(matrix.codes != problem.start.at(role).codes);
      }
    }
}

TEST_CASE("Learned rounding gives the same bits for any number of threads, others for another seed") {
  const Problem problem("llama-gqa-tied", "W3A16-g16-symmetric");
  for (Precision precision : {Precision::f32, Precision::bf16}) {
    LearnedRounding expected;
    with_threads(1, [&] { expected = problem.learn({.iterations = 10, .precision = precision}); });
    with_threads(4, [&] {
      const LearnedRounding found = problem.learn({.iterations = 10, .precision = precision});
      CHECK(found.weights == expected.weights);
      CHECK(found.error_after == expected.error_after);
      CHECK(problem.learn({.iterations = 10, .seed = 1, .precision = precision}).weights != expected.weights);
    });
  }
}

TEST_CASE("Learned rounding never answers what is worse than its start") {
  const Problem problem("llama-gqa-tied", "W4A16-g16-symmetric");
  CHECK(problem.learn({.iterations = 0}).weights == problem.start);
  const LearnedRounding wild = problem.learn({.iterations = 3, .rounding_rate = 5, .scale_rate = 0.5f});
  CHECK(wild.weights == problem.start);
  CHECK(wild.error_after == wild.error_before);
}

TEST_CASE("Learned rounding leaves weights alone that it is not given, and says where numbers broke") {
  Problem problem("gpt2-untied", "W3A16-g8-symmetric");
  std::erase_if(problem.start, [](const auto& item) { return item.first != Role::ffn_up; });
  const LearnedRounding result = problem.learn({.iterations = 30, .rounding_rate = 0.03f});
  CHECK(result.weights.size() == 1);
  CHECK(result.error_after < result.error_before);
  problem.targets[0].values()[3] = NAN;
  CHECK_THROWS_WITH(problem.learn({.iterations = 1}), "block 0: the error of the block's output is nan; expected a finite number");
}
