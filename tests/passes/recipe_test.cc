#include "passes/recipe.h"

#include "core/error.h"
#include "tests/catch.h"

using namespace llmc;
using Catch::Matchers::Contains;

namespace {

const char* two_steps = R"(
version: 1
seed: 3
steps:
  - pass: prune.magnitude
    sparsity: 0.5
    exclude: ['layers\.0\.']
  - pass: quantize.rtn
    scheme: W4A16-g32
    tensor_types:
      - {pattern: down_proj, scheme: W8A16}
)";

}  // namespace

TEST_CASE("a recipe is completed with its defaults, and its own output reads back the same", "[recipe]") {
  const Recipe recipe = parse_recipe(two_steps, "r.yaml");
  REQUIRE(recipe.steps.size() == 2);
  CHECK(recipe.seed == 3);
  CHECK(recipe.steps[0]["pattern"] == "unstructured");
  CHECK(recipe.steps[0]["scope"] == "tensor");
  CHECK(recipe.steps[1]["scheme"] == "W4A16-g32-symmetric");
  CHECK(recipe.steps[1]["tensor_types"][0]["scheme"] == "W8A16-channel-symmetric");
  CHECK(to_json(parse_recipe(to_yaml(recipe), "again")) == to_json(recipe));
  CHECK(to_json(parse_recipe(to_json(recipe).dump(), "as JSON")) == to_json(recipe));
}

TEST_CASE("2:4 stays a pattern in YAML", "[recipe]") {
  const Recipe recipe = parse_recipe("{version: 1, steps: [{pass: prune.magnitude, pattern: 2:4}]}", "r");
  CHECK(recipe.steps[0]["pattern"] == "2:4");
  CHECK(recipe.steps[0]["sparsity"] == 0.5);
  CHECK(to_json(parse_recipe(to_yaml(recipe), "again")) == to_json(recipe));
}

TEST_CASE("text in a recipe that would not be UTF-8 is refused", "[recipe]") {
  for (const char* recipe : {"version: 1\nsteps:\n  - {pass: \"a\\_b\"}\n", "version: 1\nsteps:\n  - {pass: \"a\\Nb\"}\n", "version: 1\nsteps: \n  - {\"a\\_b\": 1}\n"}) CHECK_THROWS_WITH(parse_recipe(recipe, "r.yaml"), Contains("r.yaml: line 3: an escape that is not read"));
  CHECK_THROWS_WITH(parse_recipe(std::string_view("version: a\0_b\n", 14), "r.yaml"), Contains("r.yaml: not valid YAML: a zero byte at 11 of 14"));
}

TEST_CASE("mistakes in a recipe are named", "[recipe]") {
  const auto step = [](const std::string& fields) { return "{version: 1, steps: [{" + fields + "}]}"; };
  const struct {
    std::string text;
    const char* message;
  } cases[] = {
      {"", "expected an object"},
      {"a: [", "not valid YAML"},
      {"{version: 2, steps: []}", "version: expected 1, found 2"},
      {"{steps: []}", "\"version\" is missing"},
      {"{version: 1, steps: []}", "at least one step"},
      {"{version: 1, version: 1}", "appears twice"},
      {"{version: 1, stepz: 1, steps: [{pass: prune.magnitude, sparsity: 0.5}]}", "did you mean \"steps\""},
      {"{version: 1, format: zip, steps: [{pass: prune.magnitude, sparsity: 0.5}]}", "format 'zip' is not known"},
      {"{version: 1, seed: -1, steps: [{pass: prune.magnitude, sparsity: 0.5}]}", "seed: expected a number from 0"},
      {"{version: 1, shard_size: 0, steps: [{pass: prune.magnitude, sparsity: 0.5}]}", "shard_size: expected a positive number of bytes"},
      {"{version: 1, shard_size: 5GB, steps: [{pass: prune.magnitude, sparsity: 0.5}]}", "shard_size"},
      {step("pass: prune.magnitud, sparsity: 0.5"), "did you mean \"prune.magnitude\""},
      {step("pass: prune.magnitude"), "sparsity is missing"},
      {step("pass: prune.magnitude, sparsity: 1"), "less than 1"},
      {step("pass: prune.magnitude, sparsity: 0"), "more than 0"},
      {step("pass: prune.magnitude, sparsity: '0.5'"), "expected a number, found \"0.5\""},
      {step("pass: prune.magnitude, sparsity: 0.3, pattern: 2:4"), "means sparsity 0.5, found 0.3"},
      {step("pass: prune.magnitude, pattern: 4:4"), "'4:4' is not understood"},
      {step("pass: prune.magnitude, pattern: 2:4, scope: row"), "scope makes no sense"},
      {step("pass: prune.magnitude, sparsity: 0.5, scope: galaxy"), "'galaxy' is not known"},
      {step("pass: prune.magnitude, sparsity: 0.5, exclude: ['(']"), "pattern '('"},
      {step("pass: quantize.rtn"), "\"scheme\" is missing"},
      {step("pass: quantize.rtn, scheme: W4A16, observer: median"), "observer 'median'"},
      {step("pass: quantize.rtn, scheme: W4A16, percentile: 99"), "only with observer percentile"},
      {step("pass: quantize.rtn, scheme: W4A16, observer: percentile, percentile: 10"), "more than 50"},
      {step("pass: quantize.rtn, scheme: W4A16, grop_size: 1"), "unknown field \"grop_size\""},
      {step("pass: quantize.rtn, scheme: W4A16, tensor_types: [{pattern: x}]"), "\"scheme\" is missing"},
  };
  for (const auto& c : cases) {
    INFO(c.text);
    CHECK_THROWS_WITH(parse_recipe(c.text, "r.yaml"), Contains(c.message));
  }
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [*a" + std::to_string(i - 1) + ", *a" + std::to_string(i - 1) + ", *a" + std::to_string(i - 1) + ", *a" + std::to_string(i - 1) + "]\n";
  CHECK_THROWS_WITH(parse_recipe(bomb, "bomb"), Contains("100000 values"));
  std::string long_text = "a: &a " + std::string(1 << 20, 'x') + "\nsteps: [";
  for (int i = 0; i < 10'000; ++i) long_text += "*a,";
  CHECK_THROWS_WITH(parse_recipe(long_text + "*a]\n", "bomb"), Contains("more than 16777216 bytes of text"));
}
