// The centroids of a codebook against an exhaustive search over all ways to cut the sorted weights.
#include "passes/codebook.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

namespace {

struct Point {
  double x;
  double mass;
};

double spread(const std::vector<Point>& points, size_t begin, size_t end) {
  double mass = 0, sum = 0, error = 0;
  for (size_t i = begin; i < end; ++i) mass += points[i].mass, sum += points[i].mass * points[i].x;
  for (size_t i = begin; i < end; ++i) error += points[i].mass * std::pow(points[i].x - sum / mass, 2);
  return error;
}

/// Least error of `count` clusters, by trying all.
double exhaustive(const std::vector<Point>& points, size_t begin, int count) {
  if (count == 1) return spread(points, begin, points.size());
  double least = INFINITY;
  for (size_t end = begin + 1; end + static_cast<size_t>(count) - 1 <= points.size(); ++end)
    least = std::min(least, spread(points, begin, end) + exhaustive(points, end, count - 1));
  return least;
}

double error_of(const std::vector<Point>& points, const std::vector<float>& centroids) {
  double sum = 0;
  for (const Point& point : points) {
    double least = INFINITY;
    for (float centroid : centroids) least = std::min(least, std::pow(point.x - centroid, 2));
    sum += point.mass * least;
  }
  return sum;
}

}  // namespace

TEST_CASE("centroids are the best there are", "[codebook]") {
  for (int64_t cols : {5, 9, 14})
    for (int count : {2, 3, 4})
      for (bool weighted : {false, true}) {
        const Matrix values = test::random_matrix(1, cols, "codebook"), masses = test::random_matrix(1, cols, "masses");
        std::vector<float> importance;
        std::vector<Point> points;
        for (int64_t i = 0; i < cols; ++i) {
          if (weighted) importance.push_back(std::abs(masses.row(0)[i]));
          points.push_back({values.row(0)[i], weighted ? importance.back() : 1.0});
        }
        std::ranges::sort(points, {}, &Point::x);
        const std::vector<float> centroids = fit_codebook(values.view(), importance, count, DType::f32, ZeroLevel::free);
        REQUIRE(centroids.size() == static_cast<size_t>(count));
        REQUIRE(std::ranges::is_sorted(centroids));
        REQUIRE(error_of(points, centroids) == Approx(exhaustive(points, 0, count)).epsilon(1e-5));  // centroids are f32
      }
}

TEST_CASE("few distinct weights are kept exactly, and 0 where it is asked for", "[codebook]") {
  Matrix values(2, 50);
  for (size_t i = 0; i < 100; ++i) values.values()[i] = static_cast<float>(i % 3) - 1.25f;
  const std::vector<float> expected = {-1.25f, -0.25f, 0.75f, 0.75f, 0.75f};
  CHECK(fit_codebook(values.view(), {}, 5, DType::bf16, ZeroLevel::free) == expected);
  const auto with_zero = fit_codebook(values.view(), {}, 3, DType::bf16, ZeroLevel::kept);
  CHECK(with_zero == std::vector<float>{-1.25f, 0, 0.75f});
  const Matrix random = test::random_matrix(20, 50, "zero");
  CHECK(std::ranges::count(fit_codebook(random.view(), {}, 16, DType::f16, ZeroLevel::kept), 0.0f) == 1);
}

TEST_CASE("more distinct weights than the search takes cost next to nothing", "[codebook]") {
  // 40000 distinct f32 weights are merged into 8192 neighbourhoods. Lloyd's algorithm from the result must find next to
  // nothing to gain: a cut can only be wrong by half a neighbourhood, 1/16384 of the weights.
  const Matrix values = test::random_matrix(200, 200, "many");
  std::vector<Point> points;
  for (float x : values.values()) points.push_back({x, 1});
  const auto centroids = fit_codebook(values.view(), {}, 16, DType::f32, ZeroLevel::free);
  std::vector<double> refined(centroids.begin(), centroids.end());
  for (int round = 0; round < 20; ++round) {
    std::vector<double> sums(refined.size()), counts(refined.size());
    for (const Point& point : points) {
      const auto nearest = std::ranges::min_element(refined, {}, [&](double c) { return std::abs(c - point.x); }) - refined.begin();
      sums[static_cast<size_t>(nearest)] += point.x, counts[static_cast<size_t>(nearest)] += 1;
    }
    for (size_t i = 0; i < refined.size(); ++i) refined[i] = sums[i] / counts[i];
  }
  CHECK(error_of(points, centroids) <= 1.0005 * error_of(points, {refined.begin(), refined.end()}));
  // Sixteen levels for a normal distribution leave 0.0094975 of the variance (Max 1960, table I).
  CHECK(error_of(points, centroids) / 40000 == Approx(0.0095).epsilon(0.05));
}
