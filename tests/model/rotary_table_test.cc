#include "model/rotary_table.h"

#include <cmath>

#include "tests/catch.h"
#include "tests/support.h"
#include "verify/oracle_rope.h"

using namespace llmc;

namespace {

const std::vector<Rope>& ropes() {
  static const std::vector<Rope> list = {
      {.theta = 10000, .dim = 64},
      {.theta = 10000, .dim = 6},
      {.theta = 10000, .dim = 128, .scaling = RopeScaling::linear, .factor = 4, .original_context = 2048},
      {.theta = 10000, .dim = 64, .scaling = RopeScaling::dynamic, .factor = 2, .original_context = 40},
      {.theta = 1000000, .dim = 128, .scaling = RopeScaling::yarn, .factor = 4, .original_context = 32768, .magnitude = 1.14},
      {.theta = 10000, .dim = 64, .scaling = RopeScaling::yarn, .factor = 40, .original_context = 4096, .fast = 16, .slow = 2, .whole_ramp = false},
      {.theta = 10000, .dim = 6, .scaling = RopeScaling::longrope, .original_context = 40, .magnitude = 1.19, .short_factors = {1, 1.5f, 2}, .long_factors = {1, 4, 33.7f}},
      {.theta = 500000, .dim = 128, .scaling = RopeScaling::llama3, .factor = 8, .original_context = 8192},
  };
  return list;
}

}  // namespace

TEST_CASE("Rotary frequencies are those that the oracle has from the papers") {
  for (const Rope& rope : ropes())
    for (const int64_t length : {1, 40, 41, 100}) {
      CAPTURE(to_string(rope.scaling), rope.dim, length);
      const std::vector<float> found = rope_frequencies(rope, length), expected = oracle_rope_frequencies(rope, length);
      REQUIRE(std::ssize(found) == rope.dim / 2);
      REQUIRE(expected.size() == found.size());
      for (size_t i = 0; i < found.size(); ++i) CHECK(found[i] == Approx(expected[i]).epsilon(5e-7));  // some roundings to f32
    }
}

TEST_CASE("The last row of a sequence turns as a single row at its position does, and gradients turn back") {
  for (const Rope& rope : ropes())
    for (const int64_t length : {1, 39, 40, 41, 300}) {
      CAPTURE(to_string(rope.scaling), rope.dim, length);
      const int64_t head_dim = rope.dim + 4;  // the last four values of a head stay
      const RotaryTable table(rope, head_dim);
      const Matrix before = test::random_matrix(length, 2 * head_dim, "rows"), d = test::random_matrix(length, 2 * head_dim, "d");
      Matrix rows = before, last = before, d_rows = d;
      table.rotate(rows.view());
      table.rotate_row(last.view().row_span(length - 1), length - 1);
      for (int64_t c = 0; c < rows.cols(); ++c) REQUIRE(rows.row(length - 1)[c] == last.row(length - 1)[c]);
      for (int64_t c = rope.dim; c < head_dim; ++c) REQUIRE(rows.row(length - 1)[c] == before.row(length - 1)[c]);
      table.rotate_back(d_rows.view());
      double forward = 0, backward = 0, size = 0;  // ⟨d, R·x⟩ = ⟨Rᵀ·d, x⟩
      for (size_t i = 0; i < rows.values().size(); ++i) {
        forward += double{d.values()[i]} * rows.values()[i];
        backward += double{d_rows.values()[i]} * before.values()[i];
        size += std::abs(double{d.values()[i]} * rows.values()[i]);
      }
      CHECK(std::abs(forward - backward) <= 1e-6 * size);
    }
}
