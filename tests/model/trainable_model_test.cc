#include "model/trainable_model.h"

#include <array>
#include <cmath>
#include <map>

#include "core/parallel.h"
#include "model/forward.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"
#include "verify/oracle.h"

using namespace llmc;

namespace {

/// Wants the gradients of everything, and keeps them.
struct AllGradients final : GradientReader {
  explicit AllGradients(const Model& of) : model(of) {}

  BlockTensors prepare(int64_t block) override {
    BlockTensors gradients;
    for (const auto& [place, matrix] : read_block(model, block)) gradients(place.first, place.second) = Matrix(matrix.rows(), matrix.cols());
    return gradients;
  }
  void take(int64_t block, BlockTensors gradients) override { by_block[block] = std::move(gradients); }

  const Model& model;
  std::map<int64_t, BlockTensors> by_block;
};

struct Example {
  explicit Example(const Model& of) : model(of), tokens(static_cast<size_t>(sequences.rows), -1), labels(tokens.size(), -1), teacher(test::random_matrix(sequences.rows, of.config().vocabulary, "teacher", 2)) {
    for (const auto& [first, length] : sequences.ranges)
      for (int64_t r = first; r < first + length; ++r) {
        tokens[static_cast<size_t>(r)] = static_cast<int32_t>(r * 7 % model.config().vocabulary);
        labels[static_cast<size_t>(r)] = static_cast<int32_t>(r * 5 % model.config().vocabulary);
      }
    for (int64_t block = 0; block < model.config().layers; ++block) configs.push_back(model.config().at_block(block));
    for (const ModelConfig& config : configs) attention.push_back({.config = &config, .q = queries.view(), .k = keys.view()});
  }

  TrainableModel make() const {
    TrainableModel trainable(model.config(), Precision::f32, default_backend());
    for (int64_t block = -1; block < model.config().layers; ++block) trainable.set(block, read_block(model, block));
    return trainable;
  }
  HeadLosses run(TrainableModel& trainable, GradientReader& reader) const {
    trainable.run(sequences, tokens);
    return trainable.backpropagate(weights, [&](int64_t first, MatrixView logits) {
      for (int64_t r = 0; r < logits.rows; ++r) std::ranges::copy(teacher.view().row_span(first + r), logits.row(r)); }, labels, reader, {}, attention);
  }

  const Model& model;
  SequenceRows sequences{std::array<int64_t, 2>{5, 9}};
  LossWeights weights{.kl = 0.7, .temperature = 2, .cross_entropy = 0.4, .attention = 0.5};
  std::vector<int32_t> tokens, labels;
  Matrix teacher;
  Matrix queries = test::random_matrix(sequences.rows, model.config().query_width(), "queries"), keys = test::random_matrix(sequences.rows, model.config().kv_width(), "keys");
  std::vector<ModelConfig> configs;
  std::vector<AttentionTarget> attention;
};

constexpr std::array names = {"llama-gqa-tied", "llama-mha-untied", "llama-bias", "gpt2-tied", "gpt2-untied", "qwen2-untied", "mistral-window", "qwen3-untied", "phi3-part", "stablelm", "olmo2", "gemma2", "gemma3", "gpt-neox", "opt", "bloom", "falcon", "falcon-groups", "falcon-refined", "phi3-longrope"};

}  // namespace

TEST_CASE("A trainable model's hidden states are those of the forward pass") {
  for (const char* name : names) {
    CAPTURE(name);
    const Model model = load_model(golden_root() / name, {}, test::context());
    const Example example(model);
    TrainableModel trainable = example.make();
    trainable.run(example.sequences, example.tokens);
    for (const auto& [first, length] : example.sequences.ranges) {
      const Forward forward(model, {});
      Matrix hidden(length, model.config().hidden), found(length, model.config().hidden);
      forward.embed(std::span(example.tokens).subspan(static_cast<size_t>(first), static_cast<size_t>(length)), hidden.view());
      for (int64_t block = 0; block < model.config().layers; ++block) forward.run_block(*forward.load_block(block), hidden.view());
      for (int64_t r = 0; r < length; ++r) std::ranges::copy(trainable.hidden().row_span(first + r), found.row(r));
      CHECK(test::largest_difference(hidden, found) < 1e-5);  // sums in another order
    }
  }
}

TEST_CASE("Norms of each head's own have no gradient") {
  const Model model = load_model(golden_root() / "stablelm-head-norms", {}, test::context());
  try {
    check_trainable(model, "heal");
    FAIL("nothing was thrown");
  } catch (const Error& problem) {
    CHECK(std::string(problem.what()).starts_with("heal: field \"qk_layernorm\": StableLmForCausalLM has a norm of each head's own"));
  }
  CHECK_THROWS_AS(read_block(model, 0), Error);
}

TEST_CASE("Gradients of a whole model are those of central differences") {
  for (const char* name : names) {
    const Model model = load_model(golden_root() / name, {}, test::context());
    const Example example(model);
    TrainableModel trainable = example.make();
    AllGradients gradients(model), unused(model);
    example.run(trainable, gradients);
    for (const auto& [block, tensors] : gradients.by_block)
      for (const auto& [place, gradient] : tensors) {
        if (model.config().activation == Activation::relu || !model.find(Role::attention_norm, 0)) continue;  // no straight line is near enough: ReLU has kinks, OLMo 2's first block reads embeddings as they are
        CAPTURE(name, block, to_string(place.first), place.second == Part::bias);
        double squares = 0;
        for (const float value : gradient.values()) squares += double{value} * value;
        const double norm = std::sqrt(squares);
        if (place.first == Role::key && place.second == Part::bias) continue;  // softmax does not see it: its gradient is rounding
        REQUIRE(norm > 1e-6);
        // Along the gradient the loss rises by its length. Two step sizes, large enough for f32 losses, cancel the third derivative.
        const BlockTensors start = read_block(model, block);
        const auto loss_at = [&](double distance) {
          BlockTensors moved;
          Matrix values = start.get(place.first, place.second);
          for (size_t i = 0; i < values.values().size(); ++i) values.values()[i] += static_cast<float>(distance * gradient.values()[i] / norm);
          moved(place.first, place.second) = std::move(values);
          if (place.second == Part::bias && start.find(place.first)) moved(place.first) = start.get(place.first);  // a bias goes with its weight
          else if (const Matrix* bias = start.find(place.first, Part::bias)) moved(place.first, Part::bias) = *bias;
          trainable.set(block, moved);
          const HeadLosses loss = example.run(trainable, unused);
          return loss.total(example.weights);
        };
        const auto slope = [&](double step) { return (loss_at(step) - loss_at(-step)) / (2 * step); };
        const double step = 1e-3 * std::sqrt(static_cast<double>(gradient.values().size()));
        const double found = (4 * slope(step / 2) - slope(step)) / 3;
        trainable.set(block, start);
        CHECK(found == Approx(norm).epsilon(0.003));  // what f32 losses leave
      }
  }
}

namespace {

/// Four samples of 24 tokens, as tests/golden/make_training.py.
struct GoldenSamples {
  explicit GoldenSamples(int64_t vocabulary) : tokens(static_cast<size_t>(sequences.rows), -1), labels(tokens.size(), -1) {
    for (size_t s = 0; s < samples.size(); ++s) {
      for (int64_t i = 0; i < 24; ++i) samples[s].push_back(static_cast<int32_t>((7 * i * i + 3 * i + 11 * static_cast<int64_t>(s)) % vocabulary));
      std::ranges::copy(samples[s], tokens.begin() + sequences.ranges[s].first);
      std::copy(samples[s].begin() + 1, samples[s].end(), labels.begin() + sequences.ranges[s].first);
    }
  }

  SequenceRows sequences{std::array<int64_t, 4>{24, 24, 24, 24}};
  std::array<std::vector<int32_t>, 4> samples;
  std::vector<int32_t> tokens, labels;
};

/// `expected`: G · v and u · G of every tensor's gradient G in the order of its name, as tests/golden/make_training.py stores them.
void check_gradients(const Model& model, const AllGradients& gradients, std::span<const float> expected) {
  std::map<std::string, const Matrix*> by_name;
  for (const PlacedTensor& placed : model.tensors()) by_name[placed.tensor->name] = gradients.by_block.at(placed.block).find(placed.row->role, placed.part);
  for (const auto& [tensor, gradient] : by_name) {
    CAPTURE(tensor);
    const auto wave = [](int64_t i, int number) { return static_cast<double>(static_cast<float>(std::sin(0.9 * static_cast<double>(i) + number))); };
    std::vector<double> found(static_cast<size_t>(gradient->rows() + gradient->cols()));
    for (int64_t r = 0; r < gradient->rows(); ++r)
      for (int64_t c = 0; c < gradient->cols(); ++c) {
        found[static_cast<size_t>(r)] += gradient->row(r)[c] * wave(c, 3);
        found[static_cast<size_t>(gradient->rows() + c)] += gradient->row(r)[c] * wave(r, 4);
      }
    REQUIRE(found.size() <= expected.size());
    double difference = 0, size = 0;
    for (size_t i = 0; i < found.size(); ++i) difference += std::pow(found[i] - expected[i], 2), size += std::pow(expected[i], 2);
    expected = expected.subspan(found.size());
    if (tensor.ends_with("k_proj.bias")) continue;  // softmax does not see it: its gradient is rounding
    CHECK(std::sqrt(difference) <= 1e-4 * std::sqrt(size));  // f32 through two or three blocks
  }
  CHECK(expected.empty());
}

}  // namespace

TEST_CASE("Gradients of a whole model are those of PyTorch's autograd") {
  for (const char* name : {"llama-gqa-tied", "llama-mha-untied", "llama-headdim", "llama-bias", "gpt2-tied", "gpt2-untied", "qwen2-untied", "qwen2-tied", "mistral-window", "qwen3-untied", "qwen3-tied", "llama-rope-yarn", "llama-rope-dynamic", "phi3-whole", "phi3-part", "stablelm", "stablelm-bias", "olmo2", "gemma", "gemma2", "gemma3", "gpt-neox", "gpt-neox-sequential", "opt", "bloom", "bloom-untied", "stablelm-parallel", "falcon", "falcon-groups", "falcon-refined", "falcon-heads", "falcon-one-norm", "phi3-longrope"}) {
    const Model model = load_model(golden_root() / name, {}, test::context()), teacher = load_model(golden_root() / "llama-sharded", {}, test::context());
    const GoldenSamples golden(model.config().vocabulary);
    Matrix taught(golden.sequences.rows, model.config().vocabulary);
    for (size_t s = 0; s < golden.samples.size(); ++s) {
      const Matrix logits = compute_logits(teacher, golden.samples[s], {});
      for (int64_t i = 0; i < 24; ++i) std::copy_n(logits.row(i), taught.cols(), taught.row(golden.sequences.ranges[s].first + i));
    }
    TrainableModel trainable(model.config(), Precision::f32, default_backend());
    for (int64_t block = -1; block < model.config().layers; ++block) trainable.set(block, read_block(model, block));
    AllGradients gradients(model);
    trainable.run(golden.sequences, golden.tokens);
    trainable.backpropagate({.kl = 0.7, .temperature = 2, .cross_entropy = 0.4}, [&](int64_t first, MatrixView logits) {
      for (int64_t r = 0; r < logits.rows; ++r) std::ranges::copy(taught.view().row_span(first + r), logits.row(r)); }, golden.labels, gradients);

    CAPTURE(name);
    check_gradients(model, gradients, read_golden<float>(golden_root() / "../training" / ("gradients-" + std::string(name) + ".npy"), DType::f32).values);
  }
}

TEST_CASE("The divergence of a model's attention from another's, and its gradients, are PyTorch's") {
  const Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context()), teacher = load_model(golden_root() / "qwen2-untied", {}, test::context());
  const GoldenSamples golden(model.config().vocabulary);
  const int64_t rows = golden.sequences.rows;
  const Forward forward(teacher, {});
  std::vector<Matrix> queries, keys, states;
  for (const auto& sample : golden.samples) forward.embed(sample, states.emplace_back(24, teacher.config().hidden).view());
  std::vector<AttentionTarget> attention;
  for (int64_t block = 0; block < model.config().layers; ++block) {
    queries.emplace_back(rows, teacher.config().query_width());
    keys.emplace_back(rows, teacher.config().kv_width());
    for (size_t s = 0; s < states.size(); ++s) {
      const auto of_sample = [&](Matrix& matrix) { return matrix.view().row_range(golden.sequences.ranges[s].first, 24); };
      forward.read_attention(*forward.load_block(block), states[s].view(), of_sample(queries.back()), of_sample(keys.back()));
      forward.run_block(*forward.load_block(block), states[s].view());
    }
    attention.push_back({.config = &teacher.config(), .q = std::as_const(queries.back()).view(), .k = std::as_const(keys.back()).view()});
  }
  TrainableModel trainable(model.config(), Precision::f32, default_backend());
  for (int64_t block = -1; block < model.config().layers; ++block) trainable.set(block, read_block(model, block));
  AllGradients gradients(model);
  trainable.run(golden.sequences, golden.tokens);
  const HeadLosses losses = trainable.backpropagate({.kl = 0, .attention = 1}, {}, golden.labels, gradients, {}, attention);
  const auto expected = read_golden<float>(golden_root() / "../training" / "attention-llama-gqa-tied.npy", DType::f32);
  CHECK(losses.attention == Approx(expected.values.front()).epsilon(1e-5));
  check_gradients(model, gradients, std::span<const float>(expected.values).subspan(1));
}

namespace {

/// The loss that Example::run has, from the oracle's logits, in double precision.
double compute_oracle_loss(const Model& model, const Example& example) {
  const auto log_softmax = [](std::span<const double> logits, double temperature) {
    const double largest = std::ranges::max(logits);
    double sum = 0;
    for (const double logit : logits) sum += std::exp((logit - largest) / temperature);
    std::vector<double> result;
    for (const double logit : logits) result.push_back((logit - largest) / temperature - std::log(sum));
    return result;
  };
  const auto vocabulary = static_cast<size_t>(model.config().vocabulary);
  double loss = 0;
  for (const auto& [first, length] : example.sequences.ranges) {
    const auto logits = compute_oracle_logits(model, std::span(example.tokens).subspan(static_cast<size_t>(first), static_cast<size_t>(length)));
    for (int64_t i = 0; i < length; ++i) {
      const auto row = std::span(logits).subspan(static_cast<size_t>(i) * vocabulary, vocabulary);
      const auto target = example.teacher.view().row_span(first + i);
      const double temperature = example.weights.temperature;
      const auto p = log_softmax(std::vector<double>(target.begin(), target.end()), temperature), q = log_softmax(row, temperature);
      for (size_t v = 0; v < vocabulary; ++v) loss += example.weights.kl * temperature * temperature * std::exp(p[v]) * (p[v] - q[v]);
      loss -= example.weights.cross_entropy * log_softmax(row, 1)[static_cast<size_t>(example.labels[static_cast<size_t>(first + i)])];
    }
  }
  return loss / static_cast<double>(example.sequences.tokens());
}

}  // namespace

TEST_CASE("Gradients of a whole model are those of central differences of the oracle's loss in double precision") {
  for (const char* name : names) {
    Model model = load_model(golden_root() / name, {}, test::context());
    Example example(model);
    example.weights.attention = 0;
    TrainableModel trainable = example.make();
    AllGradients gradients(model);
    const HeadLosses losses = example.run(trainable, gradients);
    CAPTURE(name);
    CHECK(losses.total(example.weights) == Approx(compute_oracle_loss(model, example)).epsilon(1e-6));
    for (const PlacedTensor& placed : model.tensors()) {
      const Matrix& gradient = gradients.by_block.at(placed.block).get(placed.row->role, placed.part);
      CAPTURE(placed.tensor->name);
      double squares = 0;
      for (const float value : gradient.values()) squares += double{value} * value;
      if (placed.row->role == Role::key && placed.part == Part::bias && std::sqrt(squares) < 1e-6) continue;  // softmax does not see it: its gradient is rounding
      const Matrix start = read_matrix(*placed.tensor);
      const double step = 1e-5 * std::sqrt(static_cast<double>(start.values().size()) / squares);
      double moved = 0, difference = 0;  // what the gradient says of the two points as f32 holds them, and what the loss says
      for (const double direction : {1.0, -1.0}) {
        Matrix values = start;
        for (size_t i = 0; i < values.values().size(); ++i) {
          values.values()[i] += static_cast<float>(direction * step * gradient.values()[i]);
          moved += direction * double{gradient.values()[i]} * (double{values.values()[i]} - start.values()[i]);
        }
        placed.tensor->form = FloatData(std::move(values));
        difference += direction * compute_oracle_loss(model, example);
      }
      placed.tensor->form = FloatData(Matrix(start));
      CHECK(difference == Approx(moved).epsilon(1e-4));
    }
  }
}

TEST_CASE("A whole model's gradients are the same bits for any number of threads") {
  const Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  const Example example(model);
  std::vector<Matrix> found;
  for (const int threads : {1, 2, 5}) with_threads(threads, [&] {
      TrainableModel trainable = example.make();
      AllGradients gradients(model);
      example.run(trainable, gradients);
      found.push_back(gradients.by_block.at(-1).get(Role::token_embedding));
    });
  CHECK(test::same_bits(found[0], found[1]));
  CHECK(test::same_bits(found[0], found[2]));
}

TEST_CASE("Gradients are the same bits when activations are computed again") {
  for (const char* name : names) {
    CAPTURE(name);
    const Model model = load_model(golden_root() / name, {}, test::context());
    const Example example(model);
    AllGradients kept(model), recomputed(model);
    TrainableModel one = example.make(), other(model.config(), Precision::f32, default_backend(), Activations::recomputed);
    for (int64_t block = -1; block < model.config().layers; ++block) other.set(block, read_block(model, block));
    for (int repeat = 0; repeat < 2; ++repeat) {  // the second run finds the tapes of the first
      example.run(one, kept);
      example.run(other, recomputed);
      for (const auto& [block, tensors] : kept.by_block)
        for (const auto& [place, gradient] : tensors) CHECK(test::same_bits(gradient, recomputed.by_block.at(block).get(place.first, place.second)));
    }
  }
}

TEST_CASE("A trainable model refuses tokens that it has no embedding for") {
  const Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  Example example(model);
  example.tokens[2] = static_cast<int32_t>(model.config().vocabulary);
  TrainableModel trainable = example.make();
  CHECK_THROWS_WITH(trainable.run(example.sequences, example.tokens), "token " + std::to_string(model.config().vocabulary) + ": outside the vocabulary of " + std::to_string(model.config().vocabulary));
}
