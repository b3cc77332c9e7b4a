// The oracle against logits that transformers computed in double precision (tests/golden/make_golden.py).
#include "verify/oracle.h"

#include <cmath>

#include "formats/activation_scheme.h"
#include "model/forward.h"
#include "passes/rounding.h"
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

namespace {

double mean_difference(std::span<const double> a, auto b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::abs(a[i] - b[i]);
  return sum / static_cast<double>(a.size());
}

}  // namespace

// A value next to the border between two codes may take the other one in the other pass, and the step moves what follows.
// So the passes are held to a share of what rounding the inputs (or the cache) changes at all. In these small models few
// values are near a border: the share was at most 0.35 when written; two roundings that have nothing to do with each other
// are 1.4 apart.
constexpr double largest_share = 0.6;

namespace {

/// A model whose block weights are rounded to the scheme, and one with the same weights whose inputs are as they are.
struct Pair {
  Model rounded, plain;

  Pair(const std::filesystem::path& directory, const Scheme& scheme) : rounded(load_model(directory, {}, test::context())), plain(load_model(directory, {}, test::context())) {
    Scheme weight_only = scheme;
    weight_only.input.reset();
    for (size_t i = 0; i < rounded.tensors().size(); ++i) {
      if (!is_block_linear(rounded.tensors()[i])) continue;
      StoredTensor& tensor = *rounded.tensors()[i].tensor;
      const Matrix values = read_matrix(tensor);
      tensor.form = round_to_nearest(values.view(), scheme, DType::f32, {}, tensor.name);
      if (scheme.input->range == InputRange::calibrated) set_input_grid(tensor, make_static_grid(*scheme.input, -3, 4, DType::f32, tensor.name));
      plain.tensors()[i].tensor->form = round_to_nearest(values.view(), weight_only, DType::f32, {}, tensor.name);
    }
  }
};

}  // namespace

TEST_CASE("the oracle and the fast pass mean the same by rounded inputs", "[oracle]") {
  for (const char* name : {"llama-gqa-tied", "llama-bias", "gpt2-tied", "qwen2-untied", "qwen3-untied"})
    for (const char* text : {"W8A8-dynamic-linear", "W8A8-static", "W4A8-g8-static-linear", "W4A4-channel-dynamic-linear"}) {
      INFO(name << " " << text);
      const auto directory = golden_root() / name;
      const Pair models(directory, parse_scheme(text));
      const auto ids = read_golden<int32_t>(directory / "input_ids.npy", DType::i32);
      const auto tokens = std::span(ids.values).first(static_cast<size_t>(ids.shape[1]));
      const std::vector<double> logits = compute_oracle_logits(models.rounded, tokens);
      const double noise = mean_difference(logits, compute_oracle_logits(models.plain, tokens));
      CHECK(noise > 1e-4);
      CHECK(mean_difference(logits, compute_logits(models.rounded, tokens, {}).values()) <= largest_share * noise);
    }
}

// The symmetric dynamic scale, max/127.5, puts the largest value of every row on a border if it is negative: rounding alone
// decides between -127 and -128. So the passes part in most sequences, but where no such value is met they agree to the last
// bits, which no other formula would.
TEST_CASE("the oracle and the fast pass mean the same by symmetric dynamic inputs", "[oracle]") {
  for (const char* name : {"llama-gqa-tied", "llama-bias", "gpt2-tied", "qwen2-untied", "qwen3-untied"}) {
    INFO(name);
    const Pair models(golden_root() / name, parse_scheme("W8A8"));
    int agreed = 0;
    for (int32_t token = 0; token < std::min<int64_t>(96, models.rounded.config().vocabulary); ++token) {
      const std::vector<double> logits = compute_oracle_logits(models.rounded, {&token, 1});
      const double noise = mean_difference(logits, compute_oracle_logits(models.plain, {&token, 1}));
      agreed += mean_difference(logits, compute_logits(models.rounded, {&token, 1}, {}).values()) <= 1e-3 * noise;
    }
    CHECK(agreed >= 3);  // 1 in 10 or so
  }
}

TEST_CASE("the oracle and the fast pass mean the same by a cache of few bits", "[oracle]") {
  for (const char* name : {"llama-gqa-tied", "llama-headdim", "gpt2-tied"})
    for (int bits : {8, 4}) {
      INFO(name << " " << bits);
      const auto directory = golden_root() / name;
      const Model model = load_model(directory, {}, test::context());
      const auto ids = read_golden<int32_t>(directory / "input_ids.npy", DType::i32);
      const auto tokens = std::span(ids.values).first(static_cast<size_t>(ids.shape[1]));
      const std::vector<double> logits = compute_oracle_logits(model, tokens, {.kv_cache_bits = bits}), unrounded = compute_oracle_logits(model, tokens);
      const Matrix fast = compute_logits(model, tokens, {.kv_cache_bits = bits});
      const double noise = mean_difference(logits, unrounded);
      CHECK(noise > 1e-5);
      CHECK(mean_difference(logits, fast.values()) <= largest_share * noise);
    }
}
