#include "passes/learned_floats.h"

#include <cmath>
#include <cstring>

#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

namespace {

StoredTensor make_tensor(const Matrix& values, DType dtype) {
  StoredTensor tensor{.name = "t", .dtype = dtype, .shape = {values.rows(), values.cols()}};
  tensor.form = make_floats(tensor, values.view());
  return tensor;
}

}  // namespace

TEST_CASE("Learned floats go down a quadratic and keep their zeros when asked to") {
  Matrix goal = test::random_matrix(3, 50, "goal");
  for (const auto zeros : {LearnedFloats::Zeros::kept, LearnedFloats::Zeros::learned}) {
    Matrix start = test::random_matrix(3, 50, "start");
    for (size_t i = 0; i < start.values().size(); i += 4) start.values()[i] = 0;
    const StoredTensor tensor = make_tensor(start, DType::f32);
    LearnedFloats learned(tensor, zeros);
    Matrix values(3, 50), gradient(3, 50);
    for (int step = 0; step < 400; ++step) {
      learned.write_values(values);
      for (size_t i = 0; i < values.values().size(); ++i) gradient.values()[i] = values.values()[i] - goal.values()[i];
      learned.update(gradient, {.rate = 0.05f * learned.size() * (1 - static_cast<float>(step) / 400)});
    }
    learned.write_values(values);
    for (size_t i = 0; i < values.values().size(); ++i) {
      if (i % 4 == 0 && zeros == LearnedFloats::Zeros::kept) CHECK(values.values()[i] == 0);
      else CHECK(values.values()[i] == Approx(goal.values()[i]).margin(0.02));
    }
  }
}

TEST_CASE("Learned floats run as their dtype rounds them, and know their size") {
  Matrix start(1, 4);
  for (float& value : start.values()) value = 2;
  const StoredTensor tensor = make_tensor(start, DType::bf16);
  LearnedFloats learned(tensor, LearnedFloats::Zeros::learned);
  Matrix gradient(1, 4), values(1, 4);
  for (float& value : gradient.values()) value = 7;
  learned.update(gradient, {.rate = 0.001f * learned.size()});  // Adam's first step is the rate, whatever the gradient: 0.001 of 2
  learned.write_values(values);
  for (const float value : learned.values().values()) CHECK(value == Approx(1.998f));
  for (const float value : values.values()) CHECK(value == 2);  // bf16 has no value between 1.992 and 2
}
