#include "passes/hidden_match.h"

#include <cmath>

#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

namespace {

constexpr double weight = 0.6;

/// Two samples, a teacher of two states, a student of two blocks.
struct Example {
  explicit Example(int64_t width_of_student) : hidden(test::random_matrix(batch.rows.rows, width_of_student, "student")) {
    for (const char* name : {"first", "second"}) teacher.push_back(test::random_matrix(batch.rows.rows, 6, name, 2));
  }

  /// Both blocks give the same states.
  double loss(HiddenMatch& match) {
    const auto compare = match.compare(batch, teacher, weight);
    Matrix unused(hidden.rows(), hidden.cols());
    for (int64_t blocks : {2, 1}) compare(blocks, hidden.view(), unused.view());
    return weight * match.loss();
  }

  Sequences samples = {{1, 2, 3, 4, 5}, {5, 4, 3}};
  Batch batch{samples, {1, 0}};
  Matrix hidden;
  std::vector<Matrix> teacher;
};

}  // namespace

TEST_CASE("Each of a student's blocks is paired with the teacher's block where the next one starts") {
  CHECK(pair_blocks(std::vector<int64_t>{0, 2, 3, 6}, 8) == std::vector<int64_t>{2, 3, 6, 8});
  CHECK(pair_blocks(std::vector<int64_t>{0, 1, 2}, 3) == std::vector<int64_t>{1, 2, 3});
  CHECK(pair_blocks(std::vector<int64_t>{-2, -3, -4}, 8) == std::vector<int64_t>{2, 5, 8});
  CHECK(pair_blocks(std::vector<int64_t>{-2, -3, -4, -5}, 2) == std::vector<int64_t>{1, 1, 1, 2});  // a deeper student
  CHECK(pair_attention(std::vector<int64_t>{0, 2, 3, 6}, 8) == std::vector<int64_t>{0, 2, 3, 6});
  CHECK(pair_attention(std::vector<int64_t>{-2, -3, -4}, 8) == std::vector<int64_t>{1, 4, 7});
}

TEST_CASE("The distance of hidden states is a share of the teacher's, and its gradients are those of central differences") {
  for (const int64_t width : {6, 4}) {  // the teacher's, and one that is projected
    CAPTURE(width);
    Example example(width);
    HiddenMatch match({1, 2}, width, 6, 7);
    REQUIRE(match.projections().size() == (width == 6 ? 0 : 2));
    Matrix gradient(example.hidden.rows(), width);
    const auto compare = match.compare(example.batch, example.teacher, weight);
    compare(2, example.hidden.view(), gradient.view());
    compare(1, example.hidden.view(), gradient.view());
    if (width == 6) {  // by its definition
      double expected = 0;
      for (const Matrix& teacher : example.teacher) {
        double distance = 0, size = 0;
        for (const auto& [first, length] : example.batch.rows.ranges)
          for (int64_t r = first; r < first + length; ++r)
            for (int64_t c = 0; c < 6; ++c) distance += std::pow(double{example.hidden.row(r)[c]} - teacher.row(r)[c], 2), size += std::pow(double{teacher.row(r)[c]}, 2);
        expected += distance / size / 2;
      }
      CHECK(match.loss() == Approx(expected));
    }
    std::vector<Matrix> of_projections;
    for (const auto& projection : match.projections()) of_projections.push_back(projection.gradient);
    const auto slope = [&](float& value) {
      constexpr float step = 1e-2f;  // the loss is quadratic
      const float at = value;
      value = at + step;
      const double above = example.loss(match);
      value = at - step;
      const double below = example.loss(match);
      value = at;
      return (above - below) / (2 * step);
    };
    for (const auto& [first, length] : example.batch.rows.ranges)
      for (int64_t r = first; r < first + length; ++r)
        for (int64_t c = 0; c < width; ++c) CHECK(gradient.row(r)[c] == Approx(slope(example.hidden.row(r)[c])).epsilon(1e-3).margin(1e-5));
    for (size_t i = 0; i < of_projections.size(); ++i) {
      Matrix& values = *match.projections()[i].values.state()[0].second;
      for (size_t k = 0; k < values.values().size(); k += 3) CHECK(of_projections[i].values()[k] == Approx(slope(values.values()[k])).epsilon(1e-3).margin(1e-5));
    }
  }
}
