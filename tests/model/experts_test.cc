// Feed-forwards of several experts: routing, products for routed tokens alone, and what a token's result depends on.
#include "model/experts.h"

#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/parallel.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;

namespace {

std::vector<std::filesystem::path> expert_models() {
  std::vector<std::filesystem::path> models;
  for (const auto& directory : golden_models())
    if (load_model(directory, {}, test::context()).config().experts > 0) models.push_back(directory);
  return models;
}

std::vector<RoutedExpert> route_copy(std::vector<float> logits, int64_t count, bool normalizes = false) { return route(logits, count, normalizes); }

Checkpoint without(Checkpoint checkpoint, const std::string& name) {
  std::erase_if(checkpoint.tensors, [&](const StoredTensor& tensor) { return tensor.name == name; });
  return checkpoint;
}

}  // namespace

TEST_CASE("A token goes to the most probable experts, of equal ones to the lower number", "[experts]") {
  const auto ids = [](const std::vector<RoutedExpert>& chosen) {
    std::vector<int64_t> experts;
    for (const RoutedExpert& routed : chosen) experts.push_back(routed.expert);
    return experts;
  };
  CHECK(ids(route_copy({1, 3, 2, 3}, 2)) == std::vector<int64_t>{1, 3});
  CHECK(ids(route_copy({0, 0, 0}, 2)) == std::vector<int64_t>{0, 1});
  CHECK(ids(route_copy({-5, -7, -6}, 3)) == std::vector<int64_t>{0, 2, 1});
  const auto plain = route_copy({0, std::log(2.0f), std::log(5.0f)}, 2), whole = route_copy({0, std::log(2.0f), std::log(5.0f)}, 2, true);
  CHECK(plain[0].share == Approx(5.0 / 8));
  CHECK(plain[1].share == Approx(2.0 / 8));
  CHECK(whole[0].share == Approx(5.0 / 7));
  CHECK(whole[1].share == Approx(2.0 / 7));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto broken = route_copy({1, nan, 2}, 2);  // chooses some, and what comes of it is NaN
  CHECK(broken.size() == 2);
  CHECK(std::isnan(broken[0].share));
}

TEST_CASE("Experts run on their tokens alone give the bits of the feed-forward as one wide one", "[experts]") {
  REQUIRE(expert_models().size() >= 5);
  for (const auto& directory : expert_models())
    for (Precision precision : {Precision::f32, Precision::bf16}) {
      CAPTURE(directory.filename().string(), to_string(precision));
      const Model model = load_model(directory, {}, test::context());
      const ModelConfig& config = model.config();
      const ForwardOptions options{.precision = precision};
      const ExpertInputs inputs(model, 0, options);
      const ExpertOutputs outputs(model, 0, options);
      for (int64_t rows : {1, 31, 150}) {
        const Matrix normed = test::random_matrix(rows, config.hidden, "normed");
        Matrix wide(rows, config.ffn), by_tap(rows, config.hidden), at_once(rows, config.hidden);
        inputs.run_all(normed.view(), wide.view());
        outputs.run_all(wide.view(), by_tap.view());
        run_experts(inputs, outputs, normed.view(), at_once.view());
        CHECK(test::same_bits(by_tap, at_once));
        int64_t routed = 0;
        const auto parts = list_parts(Tap::ffn_activation, config);
        for (int64_t r = 0; r < rows; ++r)
          for (const TapPart& part : parts) routed += part.number != shared_part && std::ranges::any_of(wide.view().column_range(part.first, part.count).row_span(r), [](float x) { return x != 0; });
        CHECK(routed == rows * config.experts_per_token);
      }
    }
}

TEST_CASE("A token's logits depend on nothing behind it and on no number of threads, with experts too", "[experts]") {
  for (const auto& directory : expert_models()) {
    CAPTURE(directory.filename().string());
    const Model model = load_model(directory, {}, test::context());
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < 150; ++i) tokens.push_back(i * 29 % 61);
    Matrix whole;
    with_threads(1, [&] { whole = compute_logits(model, tokens, {}); });
    with_threads(3, [&] { CHECK(test::same_bits(compute_logits(model, tokens, {}), whole)); });
    for (int64_t length : {1, 40, 129}) CHECK(test::same_bits(compute_logits(model, std::span(tokens).first(static_cast<size_t>(length)), {}).view(), std::as_const(whole).view().row_range(0, length)));
  }
}

TEST_CASE("Experts' tensors that are missing or too many are named", "[experts]") {
  const auto open = [](const char* name) { return open_checkpoint(golden_root() / name); };
  const std::string gone = "model.layers.1.block_sparse_moe.experts.2.w3.weight", router = "model.layers.0.mlp.gate.weight", shared = "model.layers.0.mlp.shared_expert_gate.weight";
  CHECK_THROWS_WITH(place_tensors(without(open("mixtral"), gone), {}), Contains("tensor " + gone + ": missing"));
  for (const std::string& name : {router, shared}) CHECK_THROWS_WITH(place_tensors(without(open("qwen2-moe"), name), {}), Contains("tensor " + name + ": missing"));
  Checkpoint few = open("mixtral"), many = open("mixtral"), absurd = open("mixtral");
  few.config["num_local_experts"] = 3;
  CHECK_THROWS_WITH(place_tensors(std::move(few), {}), Contains("experts.3.w1.weight: found, but MixtralForCausalLM has no such tensor") && Contains("block_sparse_moe.gate.weight: expected shape [3, 32], found [4, 32]"));
  many.config["num_local_experts"] = 5;
  CHECK_THROWS_WITH(place_tensors(std::move(many), {}), Contains("tensor model.layers.0.block_sparse_moe.experts.4.w1.weight: missing"));
  absurd.config["num_local_experts"] = 60000;
  CHECK_THROWS_WITH(place_tensors(std::move(absurd), {}), Contains("asks for 2 blocks of 60000 experts"));
}

TEST_CASE("Routers are no linear layers to quantize or prune, and experts are", "[experts]") {
  const Model model = load_model(golden_root() / "qwen2-moe", {}, test::context());
  const ModelConfig& config = model.config();
  int64_t experts = 0, routers = 0;
  for (const PlacedTensor& placed : model.tensors()) {
    const bool is_router = placed.row->role == Role::router || placed.row->role == Role::shared_router;
    routers += is_router;
    if (is_router) CHECK_FALSE(is_block_linear(placed));
    if (!is_of_each_expert(placed.row->role)) continue;
    ++experts;
    CHECK(is_block_linear(placed));
    CHECK(&model.get(placed.row->role, placed.block, placed.part, placed.expert) == placed.tensor);
  }
  CHECK(experts == config.layers * config.experts * 3);
  CHECK(routers == config.layers * 2);
}
