#include "model/forward.h"

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/random.h"
#include "model/kernels.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/linear_layers.h"

using namespace llmc;

namespace {

Model load_checkpoint_model(const std::filesystem::path& directory) {
  SilentSink sink;
  return load_model(directory, {}, RunContext{sink, {}});
}

std::filesystem::path quill() { return std::filesystem::path(LLMC_SOURCE_DIR) / "sample_models/quill-7m"; }

std::vector<int32_t> random_tokens(const Model& model, size_t count) {
  std::vector<int32_t> tokens(count);
  Random random(1, "tokens");
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(static_cast<uint64_t>(model.config().vocabulary)));
  return tokens;
}

struct Difference {
  double largest = 0;
  double relative = 0;  ///< root of the mean square, over that of the expected values
};

Difference compare(std::span<const float> found, std::span<const float> expected) {
  Difference difference;
  double squares = 0;
  double expected_squares = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double delta = double{found[i]} - expected[i];
    difference.largest = std::max(difference.largest, std::abs(delta));
    squares += delta * delta;
    expected_squares += double{expected[i]} * expected[i];
  }
  difference.relative = std::sqrt(squares / expected_squares);
  return difference;
}

}  // namespace

TEST_CASE("Logits are those of transformers") {
  const auto directories = golden_models();
  REQUIRE(directories.size() >= 11);
  for (const std::filesystem::path& directory : directories) {
    const Model model = load_checkpoint_model(directory);
    const auto tokens = read_golden<int32_t>(directory / "input_ids.npy", DType::i32);
    const auto logits = read_golden<float>(directory / "logits.npy", DType::f32);
    const auto length = static_cast<size_t>(tokens.shape[1]);
    const size_t count = length * static_cast<size_t>(model.config().vocabulary);
    for (MatmulBackend backend : test::backends())
      for (size_t sequence = 0; sequence < static_cast<size_t>(tokens.shape[0]); ++sequence) {
        CAPTURE(directory.filename().string(), to_string(backend), sequence);
        const auto ids = std::span(tokens.values).subspan(sequence * length, length);
        const auto expected = std::span(logits.values).subspan(sequence * count, count);
        const Matrix exact = compute_logits(model, ids, {.precision = Precision::f32, .backend = backend});
        REQUIRE(exact.values().size() == count);
        CHECK(compare(exact.values(), expected).largest <= 1e-4);  // the project's promise; 6e-6 when written
        // Rounding both operands to bf16 (at most 2⁻⁹ of a value, 2⁻⁹/√3 in the mean square) moves a product by about
        // 2⁻⁹·√(2/3) = 1.6e-3 of itself. The 4 products in a row of each block and the head add up, as roots of squares,
        // to 1.6e-3·√(4·3 + 1) = 6e-3 with 3 blocks; twice that leaves room for what the nonlinear parts amplify.
        const Difference rounded = compare(compute_logits(model, ids, {.precision = Precision::bf16, .backend = backend}).values(), expected);
        CHECK(rounded.relative <= 1.2e-2);
        CHECK(rounded.relative >= 1e-3);  // or it was not bf16
      }
  }
}

TEST_CASE("A real model's losses are those of transformers") {
  const Model model = load_checkpoint_model(quill());
  const nlohmann::json reference = parse_json(read_text_file(quill() / "reference.json"), "reference.json")["example"];
  const std::vector<int32_t> tokens = reference["input_ids"];
  const std::vector<double> losses = reference["nll_per_token"];
  const std::vector<double> last = reference["last_logits_first_64"];
  for (MatmulBackend backend : test::backends()) {
    const Matrix logits = compute_logits(model, tokens, {.precision = Precision::f32, .backend = backend});
    for (size_t i = 0; i < losses.size(); ++i) {
      CAPTURE(to_string(backend), i);
      const auto row = static_cast<int64_t>(i);
      CHECK(std::abs(log_sum_exp(logits.view().row_span(row)) - logits.row(row)[tokens[i + 1]] - losses[i]) <= 1e-4);
    }
    for (size_t i = 0; i < last.size(); ++i) CHECK(std::abs(logits.row(logits.rows() - 1)[i] - last[i]) <= 1e-4);
  }
}

TEST_CASE("Logits are the same bits for any number of threads, and beside other sequences") {
  const Model model = load_checkpoint_model(quill());
  const std::vector<int32_t> tokens = random_tokens(model, 150);
  for (MatmulBackend backend : test::backends())
    for (Precision precision : {Precision::f32, Precision::bf16}) {
      CAPTURE(to_string(backend), to_string(precision));
      const ForwardOptions options{.precision = precision, .backend = backend};
      const auto same = [](const Matrix& a, const Matrix& b) { return std::memcmp(a.row(0), b.row(0), a.values().size_bytes()) == 0; };
      Matrix expected;
      with_threads(1, [&] { expected = compute_logits(model, tokens, options); });
      with_threads(3, [&] {
        CHECK(same(compute_logits(model, tokens, options), expected));
        std::vector<Matrix> logits(4);
        parallel_for(4, [&](int64_t i) { logits[static_cast<size_t>(i)] = compute_logits(model, tokens, options); });
        for (const Matrix& beside : logits) CHECK(same(beside, expected));
      });
    }
}

TEST_CASE("A token's logits depend, bit for bit, on nothing after it") {
  const auto check = [](const Model& model, size_t length, const std::vector<size_t>& parts) {
    const std::vector<int32_t> tokens = random_tokens(model, length);
    for (MatmulBackend backend : test::backends())
      for (Precision precision : {Precision::f32, Precision::bf16}) {
        const ForwardOptions options{.precision = precision, .backend = backend};
        const Matrix whole = compute_logits(model, tokens, options);
        for (size_t part : parts) {
          CAPTURE(to_string(backend), to_string(precision), part);
          const Matrix logits = compute_logits(model, std::span(tokens).first(part), options);
          CHECK(std::memcmp(logits.row(0), whole.row(0), logits.values().size_bytes()) == 0);
        }
      }
  };
  check(load_checkpoint_model(quill()), 200, {1, 31, 65, 100, 128, 130});
  for (const char* name : {"gpt2-tied", "llama-gqa-tied"}) check(load_checkpoint_model(std::filesystem::path(LLMC_SOURCE_DIR) / "tests/golden/tiny" / name), 32, {1, 13, 31});
}

TEST_CASE("The head takes any rows, and an empty sequence is no mistake") {
  const Model model = load_checkpoint_model(quill());
  const Forward forward(model, {});
  const auto head = forward.load_head();
  Matrix hidden(3, model.config().hidden);
  forward.embed(random_tokens(model, 3), hidden.view());
  Matrix all(3, model.config().vocabulary);
  forward.run_head(*head, hidden.view(), all.view());
  Matrix one(1, model.config().vocabulary);
  forward.run_head(*head, hidden.view().row_range(2, 1), one.view());
  CHECK(compare(one.values(), all.values().last(one.values().size())).largest <= 1e-5);
  CHECK(compute_logits(model, {}, {}).rows() == 0);
}

TEST_CASE("A head lends its matrix to another model that holds the same floats, and to no other") {
  const Model model = load_checkpoint_model(quill()), same = load_checkpoint_model(quill());
  Model other = load_checkpoint_model(quill());
  StoredTensor& changed = const_cast<StoredTensor&>(other.get(Role::output_head, -1));
  Matrix values = read_matrix(changed);
  for (float& value : values.values()) value *= 2;
  changed.form = make_floats(changed, values.view());
  const Forward forward(model, {});
  const auto head = forward.load_head();
  Matrix hidden(2, model.config().hidden);
  forward.embed(random_tokens(model, 2), hidden.view());
  const auto logits_of = [&](const Model& of) {
    const Forward lent(of, {});
    Matrix logits(2, model.config().vocabulary);
    lent.run_head(*lent.load_head(head.get()), hidden.view(), logits.view());
    return logits;
  };
  CHECK(std::ranges::equal(logits_of(same).values(), logits_of(model).values()));
  Matrix twice = logits_of(model);
  for (float& value : twice.values()) value *= 2;
  CHECK(std::ranges::equal(logits_of(other).values(), twice.values()));
}

TEST_CASE("Tokens that the model cannot read are named") {
  const auto message = [](const Model& model, const std::vector<int32_t>& tokens) -> std::string {
    try {
      compute_logits(model, tokens, {});
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::input);
      return error.what();
    }
    return "";
  };
  const Model model = load_checkpoint_model(std::filesystem::path(LLMC_SOURCE_DIR) / "tests/golden/tiny/gpt2-tied");
  const auto vocabulary = static_cast<int32_t>(model.config().vocabulary);
  const std::string size = std::to_string(vocabulary);
  CHECK(message(model, {0, vocabulary}) == "token id " + size + " at position 1 is outside the vocabulary of " + size);
  CHECK(message(model, {-1}) == "token id -1 at position 0 is outside the vocabulary of " + size);
  const auto context = static_cast<size_t>(model.config().context);
  CHECK(message(model, std::vector<int32_t>(context)).empty());
  CHECK(message(model, std::vector<int32_t>(context + 1)) ==
        "a sequence of " + std::to_string(context + 1) + " tokens is longer than the model's " + std::to_string(context) + " positions");
}
