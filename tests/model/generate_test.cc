#include "model/generate.h"

#include <cmath>

#include "core/parallel.h"
#include "core/random.h"
#include "model/attention.h"
#include "model/kernels.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;

TEST_CASE("One position after another gives the logits of the whole sequence") {
  for (const auto& path : golden_models()) {
    CAPTURE(path.filename());
    const Model model = load_model(path, {}, test::context());
    const ModelConfig& config = model.config();
    std::vector<std::vector<int32_t>> sequences(3);
    for (size_t s = 0; s < sequences.size(); ++s)
      for (size_t i = 0; i < 9; ++i) sequences[s].push_back(static_cast<int32_t>((s * 31 + i * 7) % static_cast<size_t>(config.vocabulary)));
    const Forward forward(model, {});
    std::vector<KeyValueCache> caches;
    for (int64_t block = 0; block < config.layers; ++block) caches.emplace_back(config.at_block(block), 3, 9);
    for (int64_t position = 0; position < 9; ++position) {
      Matrix hidden(3, config.hidden), logits(3, config.vocabulary);
      std::vector<int32_t> tokens;
      for (const auto& sequence : sequences) tokens.push_back(sequence[static_cast<size_t>(position)]);
      forward.embed_next(tokens, position, hidden.view());
      for (int64_t block = 0; block < config.layers; ++block) forward.run_block_next(*forward.load_block(block), hidden.view(), caches[static_cast<size_t>(block)]);
      forward.run_head(*forward.load_head(), hidden.view(), logits.view());
      for (int64_t s = 0; s < 3; ++s) {
        const Matrix whole = compute_logits(model, sequences[static_cast<size_t>(s)], {});
        for (int64_t c = 0; c < config.vocabulary; ++c) REQUIRE(logits.row(s)[c] == Approx(whole.row(position)[c]).margin(1e-4));  // sums in another order
      }
    }
  }
}

TEST_CASE("Generated tokens are drawn from the model's distribution, and the same for any number of threads") {
  const Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  const std::vector<int32_t> first = {1, 5, 9};
  const auto sequences = generate(model, {}, first, 12, 3, "test", test::context());
  REQUIRE(sequences.size() == 3);
  for (size_t s = 0; s < 3; ++s) {
    REQUIRE(sequences[s].size() == 12);
    CHECK(sequences[s][0] == first[s]);
    Random random(3, "test, sequence " + std::to_string(s));
    Matrix logits = compute_logits(model, sequences[s], {});
    for (int64_t position = 0; position < 11; ++position) {
      softmax(logits.view().row_span(position));
      double below = 0, point = random.uniform();
      const auto token = sequences[s][static_cast<size_t>(position) + 1];
      for (int32_t t = 0; t < token; ++t) below += logits.row(position)[t];
      CHECK(point >= below - 1e-4);  // the distributions agree to rounding
      CHECK(point < below + logits.row(position)[token] + 1e-4);
    }
  }
  with_threads(5, [&] { CHECK(generate(model, {}, first, 12, 3, "test", test::context()) == sequences); });
  CHECK(generate(model, {}, first, 12, 4, "test", test::context()) != sequences);
}

TEST_CASE("A continuation is the likeliest token behind the whole sequence, again and again") {
  for (const auto& path : golden_models()) {
    CAPTURE(path.filename());
    const Model model = load_model(path, {}, test::context());
    if (model.config().rope.depends_on(12)) continue;  // keys in the cache keep the frequencies of the tokens that were there
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < 7; ++i) tokens.push_back((i * 11 + 2) % static_cast<int32_t>(model.config().vocabulary));
    const auto found = continue_prompt(model, {}, tokens, {.most_tokens = 5}, test::context());
    REQUIRE(found.size() == 1);
    REQUIRE(found[0].tokens.size() == 5);
    CHECK(found[0].ending == Ending::most_tokens);
    for (const int32_t token : found[0].tokens) {
      const Matrix logits = compute_logits(model, tokens, {});
      const auto row = logits.view().row_span(logits.rows() - 1);
      CHECK(row[static_cast<size_t>(token)] >= *std::ranges::max_element(row) - 1e-4f);  // sums in another order
      tokens.push_back(token);
    }
  }
}

TEST_CASE("Continuations end at an end token and at the context, and samples have random numbers of their own") {
  const Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  const std::vector<int32_t> prompt = {1, 5, 9};
  const auto free = continue_prompt(model, {}, prompt, {.most_tokens = 6}, test::context());
  const int32_t third = free[0].tokens[2];
  const auto first_time = std::ranges::find(free[0].tokens, third) - free[0].tokens.begin();
  const auto ended = continue_prompt(model, {}, prompt, {.most_tokens = 6, .end_tokens = {third}}, test::context());
  CHECK(ended[0].ending == Ending::end_token);
  CHECK(static_cast<int64_t>(ended[0].tokens.size()) == first_time + 1);
  CHECK(ended[0].tokens.back() == third);

  const int64_t context = model.config().context;
  const auto full = continue_prompt(model, {}, prompt, {.most_tokens = context}, test::context());
  CHECK(full[0].ending == Ending::context);
  CHECK(static_cast<int64_t>(full[0].tokens.size()) == context - 3);
  const std::vector<int32_t> whole(static_cast<size_t>(context), 1), over(static_cast<size_t>(context) + 1, 1);
  CHECK(continue_prompt(model, {}, whole, {.most_tokens = 2}, test::context())[0].tokens.empty());
  CHECK_THROWS_WITH(continue_prompt(model, {}, over, {.most_tokens = 2}, test::context()), Catch::Matchers::Contains("more than the model's context"));

  const ContinuationOptions drawn{.sampling = {.temperature = 1}, .samples = 3, .most_tokens = 8, .seed = 4};
  const auto samples = continue_prompt(model, {}, prompt, drawn, test::context());
  REQUIRE(samples.size() == 3);
  CHECK(samples[0].tokens != samples[1].tokens);
  with_threads(5, [&] {
    const auto again = continue_prompt(model, {}, prompt, drawn, test::context());
    for (size_t i = 0; i < 3; ++i) CHECK(again[i].tokens == samples[i].tokens);
  });
}

TEST_CASE("A prompt is left between blocks when the user asks to stop") {
  struct StoppingSink final : ProgressSink {
    void begin(const std::string& stage, int64_t) override { is_prompt = stage == "prompt"; }
    void advance(int64_t done) override {
      if (!is_prompt) return;
      blocks += done;
      source.request_stop();
    }
    void end() override { is_prompt = false; }
    void info(const std::string&) override {}
    void warn(const std::string&) override {}
    bool is_prompt = false;
    int64_t blocks = 0;
    std::stop_source source;
  };
  const Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  REQUIRE(model.config().layers > 1);
  StoppingSink sink;
  CHECK_THROWS_WITH(continue_prompt(model, {}, std::vector<int32_t>{1, 5, 9}, {.most_tokens = 4}, {.sink = sink, .stop = sink.source.get_token()}), Catch::Matchers::Contains("interrupted"));
  CHECK(sink.blocks == 1);
}

TEST_CASE("A cache takes memory as sequences grow, and gives what one block of memory would") {
  ModelConfig config;
  config.hidden = 8, config.heads = 2, config.kv_heads = 1, config.head_dim = 4;
  constexpr int64_t rows = 17 * 128;  // over the first room, and over twice of it
  Random random(1, "cache");
  const auto draw = [&](int64_t cols) {
    Matrix values(rows, cols);
    for (float& value : values.values()) value = static_cast<float>(random.uniform() - 0.5);
    return values;
  };
  const Matrix q = draw(config.query_width()), k = draw(config.kv_width()), v = draw(config.kv_width());
  Matrix expected(rows, config.query_width()), next(2, config.query_width());
  attend(config, MatmulBackend::eigen, Precision::f32, rows, q.view(), k.view(), v.view(), expected.view());
  KeyValueCache cache(config, 2, int64_t{1} << 40);  // of which no machine has the memory
  constexpr int64_t filled = 900;
  cache.fill(k.view().row_range(0, filled), v.view().row_range(0, filled));
  for (int64_t r = filled; r < rows; ++r) {
    const auto twice = [&](const Matrix& of) {
      Matrix both(2, of.cols());
      for (int64_t s = 0; s < 2; ++s) std::ranges::copy(of.view().row_span(r), both.row(s));
      return both;
    };
    cache.attend_next(twice(q).view(), twice(k).view(), twice(v).view(), next.view());
    for (int64_t s = 0; s < 2; ++s)
      for (int64_t c = 0; c < next.cols(); ++c) REQUIRE(next.row(s)[c] == Approx(expected.row(r)[c]).margin(1e-5));  // sums in another order
  }
}

TEST_CASE("Tokens are drawn by temperature, then from the top k, then from the top p") {
  const std::vector<float> logits = {0.0f, 2.0f, 1.0f, 2.0f, -1.0f};
  const auto shares = [&](const Sampling& sampling) {
    std::vector<double> counts(logits.size());
    for (int i = 0; i < 2000; ++i) {
      std::vector<float> copy = logits;
      counts[static_cast<size_t>(draw_token(copy, sampling, (i + 0.5) / 2000))] += 1.0 / 2000;
    }
    return counts;
  };
  const auto check = [&](const Sampling& sampling, const std::vector<size_t>& left) {
    const auto found = shares(sampling);
    double norm = 0;
    for (size_t token : left) norm += std::exp(logits[token] / sampling.temperature);
    for (size_t token = 0; token < logits.size(); ++token) {
      const bool is_left = std::ranges::find(left, token) != left.end();
      CHECK(found[token] == Approx(is_left ? std::exp(logits[token] / sampling.temperature) / norm : 0).margin(1.1e-3));  // two borders of a grid of 2000 points
    }
  };
  CHECK(shares({.temperature = 0})[1] == Approx(1));  // the first among equals
  check({.temperature = 1}, {0, 1, 2, 3, 4});
  check({.temperature = 0.5}, {0, 1, 2, 3, 4});
  check({.temperature = 1, .top_k = 3}, {1, 2, 3});
  check({.temperature = 1, .top_k = 1}, {1});
  check({.temperature = 1, .top_k = 9}, {0, 1, 2, 3, 4});
  // probabilities 0.387, 0.387, 0.142, 0.052, 0.019 hold
  check({.temperature = 1, .top_p = 0.3}, {1});
  check({.temperature = 1, .top_p = 0.5}, {1, 3});
  check({.temperature = 1, .top_p = 0.8}, {1, 2, 3});
  check({.temperature = 2, .top_p = 0.85}, {1, 2, 3, 0});  // flatter: 0.31, 0.31, 0.19, 0.12, 0.07
  check({.temperature = 1, .top_k = 2, .top_p = 0.9}, {1, 3});
  std::vector<float> broken = {0, NAN, 1};
  CHECK_THROWS_WITH(draw_token(broken, {}, 0.5), Catch::Matchers::Contains("NaN"));
  for (const double temperature : {0.0, 1.0}) {
    std::vector<float> infinite = {0, INFINITY, 1}, nothing(3, -INFINITY), all_but_one = {-INFINITY, 2, -INFINITY};
    CHECK_THROWS_WITH(draw_token(infinite, {.temperature = temperature}, 0.5), Catch::Matchers::Contains("largest logit is inf"));
    CHECK_THROWS_WITH(draw_token(nothing, {.temperature = temperature}, 0.5), Catch::Matchers::Contains("largest logit is -inf"));
    CHECK(draw_token(all_but_one, {.temperature = temperature}, 0.5) == 1);
  }
}
