#include "passes/channel_scales.h"

#include <cmath>
#include <numeric>

#include "core/parallel.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

namespace {

/// Inputs whose channels differ much in size, as those of a Transformer do.
Matrix make_inputs(int64_t tokens, int64_t in) {
  Matrix x = test::random_matrix(tokens, in, "inputs");
  Random random(7, "sizes");
  std::vector<float> sizes(static_cast<size_t>(in));
  for (float& size : sizes) size = static_cast<float>(std::exp(1.5 * random.normal()));
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t c = 0; c < in; ++c) x.row(t)[c] = sizes[static_cast<size_t>(c)] * (x.row(t)[c] + (c > 0 ? 0.3f * x.row(t)[c - 1] / sizes[static_cast<size_t>(c - 1)] : 0));
  return x;
}

InputStatistics measure(const Matrix& x) {
  const int64_t in = x.cols();
  InputStatistics statistics{.tokens = x.rows()};
  statistics.second_moment = Matrix(in, in);
  statistics.mean_abs.resize(static_cast<size_t>(in));
  statistics.max_abs.resize(static_cast<size_t>(in));
  for (int64_t t = 0; t < x.rows(); ++t)
    for (int64_t i = 0; i < in; ++i) {
      const float size = std::abs(x.row(t)[i]);
      statistics.mean_abs[static_cast<size_t>(i)] += size / static_cast<float>(x.rows());
      statistics.max_abs[static_cast<size_t>(i)] = std::max(statistics.max_abs[static_cast<size_t>(i)], size);
      for (int64_t j = 0; j < in; ++j) statistics.second_moment.row(i)[j] += x.row(t)[i] * x.row(t)[j] / static_cast<float>(x.rows());
    }
  return statistics;
}

/// E|(Ŵ − W)·x|² from the inputs themselves.
double brute_force_error(const Matrix& rounded, const Matrix& weight, const Matrix& x) {
  double sum = 0;
  for (int64_t t = 0; t < x.rows(); ++t)
    for (int64_t r = 0; r < weight.rows(); ++r) {
      double y = 0;
      for (int64_t c = 0; c < weight.cols(); ++c) y += (double{rounded.row(r)[c]} - weight.row(r)[c]) * x.row(t)[c];
      sum += y * y;
    }
  return sum / static_cast<double>(x.rows());
}

Matrix round_scaled(const Matrix& weight, const Scheme& scheme, std::span<const float> scales, std::span<const int64_t> channel_of) {
  Matrix scaled = weight;
  for (int64_t r = 0; r < weight.rows(); ++r)
    for (int64_t c = 0; c < weight.cols(); ++c) scaled.row(r)[c] *= scales[static_cast<size_t>(channel_of[static_cast<size_t>(c)])];
  Matrix rounded = dequantize(round_to_nearest(scaled.view(), scheme, DType::bf16, {}, "t"));
  for (int64_t r = 0; r < weight.rows(); ++r)
    for (int64_t c = 0; c < weight.cols(); ++c) rounded.row(r)[c] /= scales[static_cast<size_t>(channel_of[static_cast<size_t>(c)])];
  return rounded;
}

std::vector<int64_t> one_to_one(int64_t count) {
  std::vector<int64_t> channels(static_cast<size_t>(count));
  std::iota(channels.begin(), channels.end(), int64_t{0});
  return channels;
}

constexpr Scheme w3g32{.bits = 3, .mapping = Mapping::symmetric, .granularity = Granularity::group, .group_size = 32};
constexpr Scheme w4{.bits = 4, .mapping = Mapping::linear, .granularity = Granularity::channel};

}  // namespace

TEST_CASE("AWQ's scales lower the output error, and the error it reports is the real one", "[channel_scales]") {
  const Matrix x = make_inputs(200, 64);
  const InputStatistics statistics = measure(x);
  const Matrix first = test::random_matrix(40, 64, "first"), second = test::random_matrix(24, 64, "second");
  const std::vector<int64_t> channel_of = one_to_one(64);
  const ScaleProblem problem{.consumers = {{first.view(), w3g32, DType::bf16, "first"}, {second.view(), w4, DType::bf16, "second"}}, .input = &statistics, .channel_of = channel_of, .channels = 64};
  const ScaleChoice choice = search_awq_scales(problem, {});
  const auto error_with = [&](std::span<const float> scales) {
    return brute_force_error(round_scaled(first, w3g32, scales, channel_of), first, x) + brute_force_error(round_scaled(second, w4, scales, channel_of), second, x);
  };
  CHECK(choice.error == Approx(error_with(std::vector<float>(64, 1.0f))).epsilon(1e-3));  // f32 moments
  CHECK(choice.scaled_error == Approx(error_with(choice.scales)).epsilon(1e-3));
  CHECK(choice.scaled_error < 0.8 * choice.error);
  for (int power = 1; power <= 20; ++power) {  // no plain AWQ scale is better
    std::vector<float> scales(64);
    for (size_t c = 0; c < 64; ++c) scales[c] = std::pow(statistics.mean_abs[c], static_cast<float>(power) / 20);
    const auto [least, most] = std::ranges::minmax(scales);
    for (float& scale : scales) scale /= std::sqrt(least * most);
    CHECK(choice.scaled_error <= 1.02 * error_with(scales));  // bf16 scales of another power of two: another rounding
  }
}

TEST_CASE("AWQ's scales are shared where columns read one channel, and looked for on some rows of a tall matrix", "[channel_scales]") {
  const InputStatistics statistics = measure(make_inputs(100, 64));
  const Matrix weight = test::random_matrix(300, 64, "tall");
  std::vector<int64_t> channel_of;
  for (int64_t c = 0; c < 64; ++c) channel_of.push_back(c / 32 * 16 + c % 16);  // heads of 16, two to a kv head
  const ScaleProblem problem{.consumers = {{weight.view(), w3g32, DType::bf16, "tall"}}, .input = &statistics, .channel_of = channel_of, .channels = 32};
  const ScaleChoice all = search_awq_scales(problem, {}), some = search_awq_scales(problem, {.most_rows = 100});
  REQUIRE(all.scales.size() == 32);
  CHECK(all.scaled_error < all.error);
  CHECK(some.error == Approx(all.error).epsilon(0.2));  // a third of the rows
  CHECK(some.scaled_error < some.error);
}

TEST_CASE("AWQ keeps scales of 1 where rounding is exact, and zero inputs do no harm", "[channel_scales]") {
  Matrix weight(8, 32);
  for (int64_t r = 0; r < 8; ++r)
    for (int64_t c = 0; c < 32; ++c) weight.row(r)[c] = static_cast<float>((r + c) % 7 - 3);
  const std::vector<int64_t> channel_of = one_to_one(32);
  InputStatistics statistics = measure(make_inputs(50, 32));
  const ScaleChoice exact = search_awq_scales({.consumers = {{weight.view(), w3g32, DType::bf16, "exact"}}, .input = &statistics, .channel_of = channel_of, .channels = 32}, {});
  CHECK(exact.error == 0);
  CHECK(exact.scales == std::vector<float>(32, 1.0f));

  const InputStatistics nothing = measure(Matrix(10, 32));
  const Matrix random = test::random_matrix(8, 32, "random");
  for (float scale : search_awq_scales({.consumers = {{random.view(), w3g32, DType::bf16, "random"}}, .input = &nothing, .channel_of = channel_of, .channels = 32}, {}).scales) CHECK(scale == 1);
}

TEST_CASE("AWQ's scales are the same bits for any number of threads", "[channel_scales]") {
  const InputStatistics statistics = measure(make_inputs(100, 64));
  const Matrix weight = test::random_matrix(200, 64, "threads");
  const std::vector<int64_t> channel_of = one_to_one(64);
  const ScaleProblem problem{.consumers = {{weight.view(), w4, DType::bf16, "threads"}}, .input = &statistics, .channel_of = channel_of, .channels = 64};
  ScaleChoice one, three;
  with_threads(1, [&] { one = search_awq_scales(problem, {}); });
  with_threads(3, [&] { three = search_awq_scales(problem, {}); });
  CHECK(one.scales == three.scales);
  CHECK(one.scaled_error == three.scaled_error);
}

TEST_CASE("SmoothQuant: s = max|x|^a / max|W|^(1-a) over all consumers", "[channel_scales]") {
  InputStatistics statistics = measure(make_inputs(50, 6));
  statistics.max_abs = {4, 9, 16, 0, 2, 8};
  Matrix first(2, 6), second(1, 6);
  for (int64_t c = 0; c < 6; ++c) first.row(0)[c] = 0.25f, first.row(1)[c] = -0.5f, second.row(0)[c] = c == 1 ? -4.0f : 0.1f;
  for (Matrix* matrix : {&first, &second})
    for (int64_t r = 0; r < matrix->rows(); ++r) matrix->row(r)[5] = 0;
  const std::vector<int64_t> channel_of = {0, 1, 2, 3, 4, 5}, shared = {0, 1, 2, 0, 1, 2};
  ScaleProblem problem{.consumers = {{first.view(), w4, DType::f32, "first"}, {second.view(), w4, DType::f32, "second"}}, .input = &statistics, .channel_of = channel_of, .channels = 6};
  const std::vector<float> half = smoothquant_scales(problem, 0.5);
  CHECK(half[0] == Approx(std::sqrt(4 / 0.5)));
  CHECK(half[1] == Approx(std::sqrt(9 / 4.0)));
  CHECK(half[3] == 1);  // no input
  CHECK(half[5] == 1);  // no weight
  CHECK(smoothquant_scales(problem, 1)[2] == Approx(16));
  CHECK(smoothquant_scales(problem, 0)[2] == Approx(1 / 0.5));
  problem.channel_of = shared;
  problem.channels = 3;
  const std::vector<float> grouped = smoothquant_scales(problem, 0.5);
  CHECK(grouped[0] == Approx(std::sqrt(4 / 0.5)));
  CHECK(grouped[2] == Approx(std::sqrt(16 / 0.5)));
}
