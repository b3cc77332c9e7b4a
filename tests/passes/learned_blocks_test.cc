#include "passes/learned_blocks.h"

#include <cmath>

#include "formats/codecs/gguf_codecs.h"
#include "passes/gptq_blocks.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

namespace {

double distance(const Matrix& a, const Matrix& b) {
  double sum = 0;
  for (size_t i = 0; i < a.values().size(); ++i) sum += std::pow(double{a.values()[i]} - b.values()[i], 2);
  return sum;
}

}  // namespace

TEST_CASE("Scales and minima of blocks go down a quadratic to where they are wanted, codes stay") {
  for (const GgufTypeInfo& type : gguf_type_list()) {
    if (type.dtype) continue;
    CAPTURE(type.name);
    StoredTensor tensor{.name = "t", .dtype = DType::f32, .shape = {3, 2 * type.block}};
    const BlockMatrix start = search_matrix(type, test::random_matrix(3, 2 * type.block, "weights").view(), {}, "t");
    set_gguf_blocks(tensor, type, pack(start));
    if (type.grid.scale != BlockScale::f16 && type.grid.scale != BlockScale::integer) {
      CHECK_FALSE(has_block_scales(tensor));
      continue;
    }
    REQUIRE(has_block_scales(tensor));
    BlockMatrix wanted = start;
    for (size_t i = 0; i < wanted.d.size(); ++i) wanted.d[i] *= i % 2 == 0 ? 1.2f : 0.9f;
    for (size_t i = 0; i < wanted.dmin.size(); ++i) wanted.dmin[i] *= 1.1f;
    const Matrix goal = evaluate(wanted);
    LearnedBlocks learned(tensor);
    CHECK(learned.scale_count() == static_cast<int64_t>(start.d.size()) * (type.grid.min == BlockMin::none ? 1 : 2));
    Matrix values(3, 2 * type.block), gradient(3, 2 * type.block);
    learned.write_values(values);
    const double before = distance(values, goal);
    REQUIRE(before > 0);
    for (int step = 0; step < 300; ++step) {
      learned.write_values(values);
      for (size_t i = 0; i < values.values().size(); ++i) gradient.values()[i] = values.values()[i] - goal.values()[i];
      learned.update(gradient, 0.02f * (1 - static_cast<float>(step) / 300));
    }
    learned.write_values(values);
    CHECK(distance(values, goal) < 1e-3 * before);  // f16 scales and the last steps' length: 0.1 % of a scale
    learned.store(tensor);
    CHECK(find_gguf_type_of(tensor) == &type);
    CHECK(distance(read_matrix(tensor), values) == 0);
    CHECK(unpack(type, 3, 2 * type.block, read_gguf_blocks(tensor)).codes == unpack(type, 3, 2 * type.block, pack(start)).codes);
  }
}
