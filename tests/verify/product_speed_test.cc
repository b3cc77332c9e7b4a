#include "verify/product_speed.h"

#include <cmath>

#include "model/matmul.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;

TEST_CASE("Products are timed of the weights whose zeros are skipped, and of no other") {
  Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  CHECK(measure_products(model, {}, test::context()).skipped.empty());
  StoredTensor* chosen = nullptr;
  int64_t weights = 0;
  for (const PlacedTensor& placed : model.tensors()) {
    if (!is_block_linear(placed)) continue;
    ++weights;
    if (!chosen && placed.row->role == Role::ffn_up) chosen = placed.tensor;
  }
  Matrix values = read_matrix(*chosen);
  const size_t last = values.values().size() / 10;
  for (size_t i = last; i < values.values().size(); ++i) values.values()[i] = 0;
  chosen->form = make_floats(*chosen, values.view());

  const ForwardOptions by_library{.backend = matmul_list().back().backend};  // small and dense as these are, AMX multiplies them faster
  const ProductSpeeds speeds = measure_products(model, by_library, test::context());
  CHECK(speeds.weights == weights);
  REQUIRE(speeds.skipped.size() == 1);
  CHECK(speeds.skipped[0].tensor == chosen->name);
  CHECK(speeds.skipped[0].zeros == Approx(0.9).margin(0.01));
  CHECK(speeds.skipped[0].dense_seconds > 0);
  CHECK(speeds.ratio() == speeds.skipped[0].dense_seconds / speeds.skipped[0].sparse_seconds);
  CHECK(measure_products(model, {.zeros = Zeros::multiplied}, test::context()).skipped.empty());
  CHECK(measure_products(model, {.precision = Precision::bf16}, test::context()).skipped.empty());
}
