#include "model/generate.h"

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
