#include "passes/rotation.h"

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "model/forward.h"
#include "model/untie_head.h"
#include "passes/transform_rotate.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;

namespace {

/// The rotation as a dense matrix, from its definition: entry by entry, without a fast transform.
std::vector<double> reference_matrix(RotationKind kind, int64_t size, const std::vector<double>& signs) {
  int64_t odd = size;
  while (odd % 2 == 0) odd /= 2;
  const auto base = [&](int64_t i, int64_t j) {
    const int parity = __builtin_popcountll(static_cast<uint64_t>(i / odd) & static_cast<uint64_t>(j / odd)) % 2;
    const double angle = 2 * std::numbers::pi * static_cast<double>((i % odd) * (j % odd)) / static_cast<double>(odd);
    return (parity ? -1 : 1) * (std::cos(angle) + std::sin(angle)) / std::sqrt(static_cast<double>(size));
  };
  std::vector<double> matrix(static_cast<size_t>(size * size));
  for (int64_t i = 0; i < size; ++i)
    for (int64_t j = 0; j < size; ++j) {
      double& entry = matrix[static_cast<size_t>(i * size + j)];
      if (kind == RotationKind::spread) entry = base(i, j) * signs[static_cast<size_t>(j)];
      else
        for (int64_t k = 0; k < size; ++k) entry += base(i, k) * signs[static_cast<size_t>(k)] * base(k, j);
    }
  return matrix;
}

Model load_rotatable(const std::filesystem::path& directory) { return load_model(directory, {}, test::context()); }
std::unique_ptr<Pass> rotate(const std::string& space) { return make_transform_rotate({{"pass", "transform.rotate"}, {"space", space}}, "test"); }

}  // namespace

TEST_CASE("the fast rotation is the matrix of its definition", "[rotation]") {
  for (RotationKind kind : {RotationKind::spread, RotationKind::keep_mean})
    for (int64_t size : {1, 2, 3, 8, 15, 24, 36, 40, 64}) {
      CAPTURE(size, static_cast<int>(kind));
      const Rotation rotation(kind, size, 5, "test");
      Random random(5, "test");
      std::vector<double> signs(static_cast<size_t>(size));
      for (double& sign : signs) sign = random.below(2) == 0 ? 1 : -1;
      if (kind == RotationKind::keep_mean) signs[0] = 1;
      const std::vector<double> expected = reference_matrix(kind, size, signs);
      for (int64_t j = 0; j < size; ++j) {
        std::vector<double> column(static_cast<size_t>(size));
        column[static_cast<size_t>(j)] = 1;
        rotation.apply(column);
        for (int64_t i = 0; i < size; ++i) REQUIRE(std::abs(column[static_cast<size_t>(i)] - expected[static_cast<size_t>(i * size + j)]) <= 1e-13);  // double, at most 64 terms
      }
      for (int64_t i = 0; i < size; ++i)  // orthogonal
        for (int64_t k = 0; k < size; ++k) {
          double product = 0;
          for (int64_t j = 0; j < size; ++j) product += expected[static_cast<size_t>(i * size + j)] * expected[static_cast<size_t>(k * size + j)];
          REQUIRE(std::abs(product - (i == k)) <= 1e-13);
        }
      std::vector<double> ones(static_cast<size_t>(size), 1.0);
      rotation.apply(ones);
      if (kind == RotationKind::keep_mean) for (double value : ones) REQUIRE(value == Approx(1));
    }
}

TEST_CASE("rotating inputs and outputs cancels in a product", "[rotation]") {
  const Rotation rotation(RotationKind::spread, 12, 0, "test");
  const Matrix first = test::random_matrix(24, 5, "first"), second = test::random_matrix(7, 24, "second");
  Matrix first_rotated = first, second_rotated = second;
  rotate_outputs(first_rotated.view(), rotation);
  rotate_inputs(second_rotated.view(), rotation);
  CHECK(test::largest_difference(first, first_rotated) > 0.5);
  for (int64_t i = 0; i < 7; ++i)
    for (int64_t j = 0; j < 5; ++j) {
      double before = 0, after = 0;
      for (int64_t k = 0; k < 24; ++k) before += double{second.row(i)[k]} * first.row(k)[j], after += double{second_rotated.row(i)[k]} * first_rotated.row(k)[j];
      CHECK(after == Approx(before).margin(1e-5));  // f32 weights
    }
}

TEST_CASE("a rotated model computes the same logits", "[rotation]") {
  for (const std::filesystem::path& directory : golden_models())
    for (const char* space : {"values", "residual", "all"}) {
      CAPTURE(directory.filename().string(), space);
      Model model = load_rotatable(directory);
      const Matrix before = logits_of(model, directory);
      if (std::string(space) != "values" && (model.find(Role::attention_output_norm, 0) || model.find(Role::embedding_norm))) {
        CHECK_THROWS_WITH(rotate(space)->plan(model), Contains("behind which the residual stream goes on"));
        continue;
      }
      if (std::string(space) != "values" && model.config().projects_embedding) {
        CHECK_THROWS_WITH(rotate(space)->plan(model), Contains("project_in.weight: stands between embeddings and the residual stream"));
        continue;
      }
      if (model.config().tied_head && std::string(space) != "values") {
        CHECK_THROWS_WITH(rotate(space)->plan(model), Contains("its weights go from") && Contains("--untie"));
        model = untie_head(std::move(model), {});
        CHECK_FALSE(model.config().tied_head);
        CHECK(test::largest_difference(logits_of(model, directory), before) == 0);
      }
      const Matrix value_before = read_matrix(model.get(Role::attention_output, 0));
      const auto pass = rotate(space);
      size_t moved = 0;
      const size_t planned = pass->plan(model).size();
      const RunContext context = test::context();
      pass->run(model, {.run = context});
      for (const PlacedTensor& placed : model.tensors()) moved += placed.tensor->moved;
      if (std::string(space) == "values") CHECK(moved == planned);
      CHECK(test::largest_difference(read_matrix(model.get(Role::attention_output, 0)), value_before) > 0.1);
      CHECK(test::largest_difference(logits_of(model, directory), before) <= 2e-4);  // f32 weights rounded anew, twice for two rotations; see fold_sites_test
    }
}

TEST_CASE("a tied head stays tied where the final norm's weights are equal", "[rotation]") {
  for (const char* name : {"llama-gqa-tied", "gpt2-tied"}) {
    const std::filesystem::path directory = golden_root() / name;
    Model model = load_rotatable(directory);
    for (const PlacedTensor& placed : model.tensors())
      if (placed.row->role == Role::final_norm && placed.part == Part::weight) {
        Matrix weight = read_matrix(*placed.tensor);
        std::ranges::fill(weight.values(), 1.5f);
        placed.tensor->form = make_floats(*placed.tensor, weight.view());
      }
    const Matrix before = logits_of(model, directory);
    const RunContext context = test::context();
    rotate("residual")->run(model, {.run = context});
    CHECK(model.config().tied_head);
    CHECK(test::largest_difference(logits_of(model, directory), before) <= 2e-4);
  }
}

TEST_CASE("what cannot be rotated is refused with the reason", "[rotation]") {
  Model model = load_rotatable(golden_root() / "gpt2-untied");
  for (const PlacedTensor& placed : model.tensors()) {
    if (placed.row->role == Role::attention_norm && placed.part == Part::weight && placed.block == 0) placed.tensor->form = FloatData(Matrix(1, model.config().hidden));
    if (placed.row->role == Role::attention_output && placed.part == Part::weight && placed.block == 0) placed.tensor->pruned = true;
    if (placed.row->role == Role::attention_output && placed.part == Part::weight && placed.block == 1) placed.tensor->form = QuantizedMatrix();
  }
  CHECK_THROWS_WITH(rotate("all")->plan(model), Contains("h.0.ln_1.weight: holds zeros") && Contains("h.0.attn.c_proj.weight: is pruned") && Contains("h.1.attn.c_proj.weight: is already quantized"));
  CHECK_THROWS_WITH(rotate("everything"), Contains("rotation 'everything' is not known; expected values, residual or all"));
  CHECK_THROWS_WITH(untie_head(load_rotatable(golden_root() / "gpt2-untied"), {}), Contains("is not tied"));
}
