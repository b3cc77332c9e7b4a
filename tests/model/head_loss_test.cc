#include "model/head_loss.h"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/parallel.h"
#include "model/forward.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;

namespace {

/// Final norm and head in f64, and the weighted loss of a few positions.
struct PlainHead {
  ModelConfig config;
  BlockTensors values;

  std::vector<double> logits(const std::vector<double>& hidden) const {
    const auto weight = values.get(Role::final_norm).values();
    const Matrix* bias = values.find(Role::final_norm, Part::bias);
    const double count = static_cast<double>(hidden.size());
    double mean = 0, squares = 0;
    if (config.norm == Norm::layer)
      for (double v : hidden) mean += v / count;
    for (double v : hidden) squares += (v - mean) * (v - mean) / count;
    const Matrix& head = values.get(Role::output_head);
    std::vector<double> result(static_cast<size_t>(head.rows()));
    for (int64_t r = 0; r < head.rows(); ++r)
      for (int64_t c = 0; c < head.cols(); ++c) {
        const auto i = static_cast<size_t>(c);
        result[static_cast<size_t>(r)] += head.row(r)[c] * ((hidden[i] - mean) / std::sqrt(squares + config.norm_epsilon) * weight[i] + (bias ? bias->values()[i] : 0.0f));
      }
    return result;
  }

  /// The tokens that a teacher of Targets::top names.
  static bool is_named(size_t token) { return token % 4 == 1; }

  static std::vector<double> log_softmax(const std::vector<double>& logits, double temperature) {
    double sum = 0;
    for (double v : logits) sum += std::exp(v / temperature);
    std::vector<double> result;
    for (double v : logits) result.push_back(v / temperature - std::log(sum));
    return result;
  }

  /// Its share of the means over so many positions, and over those with a label.
  double loss(const std::vector<double>& hidden, const std::vector<double>& teacher, int32_t label, const LossWeights& weights, double positions, double labelled) const {
    const std::vector<double> own = logits(hidden), p = log_softmax(teacher, weights.temperature), q = log_softmax(own, weights.temperature);
    double kl = 0;
    double rest_of_teacher = 0, rest = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      if (weights.targets == Targets::logits || is_named(i)) kl += std::exp(p[i]) * (p[i] - q[i]);
      else rest_of_teacher += std::exp(p[i]), rest += std::exp(q[i]);
    }
    if (rest > 0) kl += rest_of_teacher * std::log(rest_of_teacher / rest);
    const double cross_entropy = label < 0 ? 0 : -log_softmax(own, 1)[static_cast<size_t>(label)];
    return weights.kl * weights.temperature * weights.temperature * kl / positions + weights.cross_entropy * cross_entropy / labelled;
  }
};

}  // namespace

TEST_CASE("Gradients of the head and its losses are those of central differences") {
  for (const char* name : {"llama-mha-untied", "gpt2-tied"})
    for (const LossWeights& weights : {LossWeights{}, LossWeights{.kl = 0, .cross_entropy = 1}, LossWeights{.kl = 0.7, .temperature = 2, .cross_entropy = 0.4}, LossWeights{.kl = 1, .temperature = 1.5, .targets = Targets::top}}) {
      CAPTURE(name, weights.kl, weights.temperature, weights.cross_entropy, static_cast<int>(weights.targets));
      const Model model = load_model(golden_root() / name, {}, test::context());
      PlainHead plain{model.config(), read_block(model, -1)};
      if (!plain.values.find(Role::output_head)) plain.values(Role::output_head) = read_matrix(model.get(Role::output_head));
      TrainableHead head(model.config(), Precision::f32, default_backend());
      head.set(plain.values);
      const SequenceRows sequences(std::array<int64_t, 2>{3, 66});
      const int64_t width = model.config().hidden, vocabulary = model.config().vocabulary;
      Matrix hidden = test::random_matrix(sequences.rows, width, "hidden");
      for (int64_t r = 3; r < 64; ++r) std::ranges::fill(hidden.view().row_span(r), 0.0f);
      const Matrix teacher = test::random_matrix(sequences.rows, vocabulary, "teacher", 2);
      std::vector<int32_t> labels(static_cast<size_t>(sequences.rows));
      for (size_t r = 0; r < labels.size(); ++r) labels[r] = r % 5 == 4 ? -1 : static_cast<int32_t>(r * 7 % static_cast<size_t>(vocabulary));
      const auto give = [&](int64_t first, MatrixView logits) {
        for (int64_t r = 0; r < logits.rows; ++r) {
          const auto row = teacher.view().row_span(first + r);
          std::ranges::copy(row, logits.row(r));
          if (weights.targets == Targets::logits) continue;
          const std::vector<double> p = PlainHead::log_softmax({row.begin(), row.end()}, weights.temperature);
          for (size_t i = 0; i < p.size(); ++i) logits.row(r)[i] = PlainHead::is_named(i) ? static_cast<float>(p[i]) : -std::numeric_limits<float>::infinity();
        }
      };
      BlockTensors gradients;
      gradients(Role::output_head) = Matrix(vocabulary, width);
      gradients(Role::final_norm) = Matrix(1, width);
      Matrix d_hidden(sequences.rows, width);
      const HeadLosses losses = head.backpropagate(sequences, hidden.view(), weights, give, labels, d_hidden.view(), gradients);

      double labelled = 0;
      for (const auto& [first, length] : sequences.ranges) labelled += static_cast<double>(std::count_if(labels.begin() + first, labels.begin() + first + length, [](int32_t label) { return label >= 0; }));
      const auto loss_at = [&](int64_t row) {
        const std::vector<double> states(hidden.row(row), hidden.row(row) + width), other(teacher.row(row), teacher.row(row) + vocabulary);
        return plain.loss(states, other, labels[static_cast<size_t>(row)], weights, 69, labelled);
      };
      const auto total = [&] {
        double sum = 0;
        for (const auto& [first, length] : sequences.ranges)
          for (int64_t r = first; r < first + length; ++r) sum += loss_at(r);
        return sum;
      };
      CHECK(losses.total(weights) == Approx(total()).epsilon(1e-5));
      // Steps of 2⁻⁶ are exact in f32; their third-order error is about 1e-4 of the gradient.
      const auto difference = [&](float& value, const auto& loss) {
        const float at = value, step = 0x1p-6f;
        value = at + step;
        const double high = loss();
        const double top = value;
        value = at - step;
        const double low = loss();
        const double distance = top - value;
        value = at;
        return (high - low) / distance;
      };
      double largest = 0;
      for (float value : d_hidden.values()) largest = std::max(largest, std::abs(double{value}));
      for (int64_t r : {0, 2, 64, 129})
        for (int64_t c : {0, 7, 31}) CHECK(std::abs(d_hidden.row(r)[c] - difference(hidden.row(r)[c], [&] { return loss_at(r); })) <= 2e-3 * largest);
      for (int64_t r = 3; r < 64; ++r)
        for (float value : d_hidden.view().row_span(r)) CHECK(value == 0);
      for (Role role : {Role::output_head, Role::final_norm}) {
        Matrix& values = plain.values(role);
        const Matrix& gradient = gradients.get(role);
        double scale = 0;
        for (float value : gradient.values()) scale = std::max(scale, std::abs(double{value}));
        for (size_t i : {size_t{0}, size_t{5}, values.values().size() - 1}) CHECK(std::abs(gradient.values()[i] - difference(values.values()[i], total)) <= 2e-3 * scale);
      }

      BlockTensors again = gradients, none;
      for (auto& [place, gradient] : again) std::ranges::fill(gradient.values(), 0.0f);
      Matrix d_again(sequences.rows, width), d_alone(sequences.rows, width);
      with_threads(5, [&] {
        CHECK(head.backpropagate(sequences, hidden.view(), weights, give, labels, d_again.view(), again).kl == losses.kl);
        head.backpropagate(sequences, hidden.view(), weights, give, labels, d_alone.view(), none);
      });
      CHECK(std::memcmp(d_again.row(0), d_hidden.row(0), d_hidden.values().size_bytes()) == 0);
      CHECK(std::memcmp(d_alone.row(0), d_hidden.row(0), d_hidden.values().size_bytes()) == 0);
      for (Role role : {Role::output_head, Role::final_norm}) CHECK(std::memcmp(again.get(role).row(0), gradients.get(role).row(0), gradients.get(role).values().size_bytes()) == 0);
    }
}

TEST_CASE("The head's logits are Forward's") {
  const Model model = load_model(golden_root() / "llama-mha-untied", {}, test::context());
  const Forward forward(model, {});
  TrainableHead head(model.config(), Precision::f32, default_backend());
  head.set(read_block(model, -1));
  const Matrix hidden = test::random_matrix(70, model.config().hidden, "hidden");
  Matrix expected(70, model.config().vocabulary), found(70, model.config().vocabulary);
  forward.run_head(*forward.load_head(), hidden.view(), expected.view());
  head.run(hidden.view(), found.view());
  CHECK(std::memcmp(found.row(0), expected.row(0), expected.values().size_bytes()) == 0);
}
