// The oracle against logits that transformers computed in double precision (tests/golden/make_golden.py).
#include "verify/oracle.h"

#include <cmath>

#include "model/forward.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;

TEST_CASE("the oracle gives transformers' double-precision logits on every tiny model", "[oracle]") {
  for (const auto& directory : golden_models()) {
    INFO(directory.filename());
    const Model model = load_model(directory, {}, test::context());
    const auto ids = read_golden<int32_t>(directory / "input_ids.npy", DType::i32);
    const auto expected = read_golden<double>(directory / "logits64.npy", DType::f64);
    const int64_t length = ids.shape[1], vocabulary = model.config().vocabulary;
    for (int64_t s = 0; s < ids.shape[0]; ++s) {
      std::vector<int32_t> tokens;
      for (int64_t t = 0; t < length; ++t) tokens.push_back(ids.values[static_cast<size_t>(s * length + t)]);
      const std::vector<double> logits = compute_oracle_logits(model, tokens);
      double worst = 0;
      for (size_t i = 0; i < logits.size(); ++i) worst = std::max(worst, std::abs(logits[i] - expected.values[static_cast<size_t>(s * length * vocabulary) + i]));
      CHECK(worst <= 1e-5);  // what remains is the last bit of some f32 rotary frequencies (tests/golden/README.md)
    }
  }
}
