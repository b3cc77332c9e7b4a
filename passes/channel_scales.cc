#include "passes/channel_scales.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "core/parallel.h"
#include "model/matmul.h"

namespace llmc {
namespace {

constexpr float least_size = 1e-4f;  // of a normalized channel, as AWQ's code clamps it

/// Per channel, the largest (or the mean) of its columns' values.
std::vector<float> gather_max(const ScaleProblem& problem, std::span<const float> by_column) {
  std::vector<float> by_channel(static_cast<size_t>(problem.channels));
  for (size_t c = 0; c < by_column.size(); ++c) {
    float& value = by_channel[static_cast<size_t>(problem.channel_of[c])];
    value = std::max(value, by_column[c]);
  }
  return by_channel;
}

std::vector<float> gather_mean(const ScaleProblem& problem, std::span<const double> by_column) {
  std::vector<double> sums(static_cast<size_t>(problem.channels)), counts(sums.size());
  for (size_t c = 0; c < by_column.size(); ++c) {
    sums[static_cast<size_t>(problem.channel_of[c])] += by_column[c];
    counts[static_cast<size_t>(problem.channel_of[c])] += 1;
  }
  std::vector<float> means(sums.size());
  for (size_t j = 0; j < sums.size(); ++j) means[j] = static_cast<float>(counts[j] > 0 ? sums[j] / counts[j] : 0);
  return means;
}

/// Mean |W| of each channel's columns, every weight as a share of the largest in its span.
std::vector<float> mean_weights(const ScaleProblem& problem) {
  std::vector<double> sums(problem.channel_of.size());
  for (const RoundedConsumer& consumer : problem.consumers) {
    const int64_t span = consumer.scheme.granularity == Granularity::group ? consumer.scheme.group_size : consumer.weight.cols;
    for (int64_t r = 0; r < consumer.weight.rows; ++r)
      for (int64_t start = 0; start < consumer.weight.cols; start += span) {
        const auto piece = consumer.weight.row_span(r).subspan(static_cast<size_t>(start), static_cast<size_t>(span));
        float largest = 0;
        for (float x : piece) largest = std::max(largest, std::abs(x));
        for (size_t i = 0; i < piece.size() && largest > 0; ++i) sums[static_cast<size_t>(start) + i] += std::abs(piece[i]) / largest;
      }
  }
  return gather_mean(problem, sums);
}

void normalize_to_largest(std::vector<float>& sizes) {
  const float largest = std::ranges::max(sizes);
  for (float& size : sizes) size = largest > 0 ? std::max(size / largest, least_size) : 1;
}

/// Powers of sizes, with the geometric middle of their range at 1.
std::vector<float> make_scales(std::span<const float> inputs, double input_power, std::span<const float> weights, double weight_power) {
  std::vector<double> logs(inputs.size());
  for (size_t j = 0; j < logs.size(); ++j) logs[j] = input_power * std::log(double{inputs[j]}) - weight_power * std::log(double{weights[j]});
  const auto [least, most] = std::ranges::minmax(logs);
  std::vector<float> scales(logs.size());
  for (size_t j = 0; j < logs.size(); ++j) scales[j] = static_cast<float>(std::exp(logs[j] - (least + most) / 2));
  return scales;
}

/// Evenly spread rows, so that the search costs the same for a tall matrix. All rows where they share one scale.
Matrix pick_rows(const RoundedConsumer& consumer, int64_t most_rows) {
  const ConstMatrixView& weight = consumer.weight;
  const int64_t count = consumer.scheme.granularity == Granularity::tensor ? weight.rows : std::min(weight.rows, most_rows);
  Matrix picked(count, weight.cols);
  for (int64_t r = 0; r < count; ++r) std::copy_n(weight.row(r * weight.rows / count), weight.cols, picked.row(r));
  return picked;
}

/// Σ over entries of (difference · H) ∘ difference.
double quadratic_form(ConstMatrixView difference, const PackedMatrix& second_moment) {
  constexpr int64_t tile = PackedMatrix::tile_rows;
  std::vector<double> sums(static_cast<size_t>((difference.rows + tile - 1) / tile));
  parallel_pieces(difference.rows, tile, [&](int64_t first, int64_t last) {
    Matrix product(last - first, difference.cols);
    second_moment.apply(difference.row_range(first, last - first), product.view());
    double sum = 0;
    for (int64_t r = 0; r < product.rows(); ++r)
      for (int64_t c = 0; c < product.cols(); ++c) sum += double{product.row(r)[c]} * difference.row(first + r)[c];
    sums[static_cast<size_t>(first / tile)] = sum;
  });
  double total = 0;
  for (double sum : sums) total += sum;
  return std::max(total, 0.0);
}

std::unique_ptr<PackedMatrix> pack_moment(ConstMatrixView second_moment) { return matmul_list().front().pack(second_moment, {}, Precision::f32); }

/// Q(W·s)/s − W.
Matrix scaled_rounding_error(ConstMatrixView weight, const RoundedConsumer& consumer, std::span<const float> column_scales, std::span<const float> mean_square, const RangeOptions& range) {
  Matrix scaled(weight.rows, weight.cols);
  std::vector<float> importance(mean_square.begin(), mean_square.end());
  for (size_t c = 0; c < importance.size(); ++c) importance[c] /= column_scales[c] * column_scales[c];
  for (int64_t r = 0; r < weight.rows; ++r)
    for (int64_t c = 0; c < weight.cols; ++c) scaled.row(r)[c] = weight.row(r)[c] * column_scales[static_cast<size_t>(c)];
  Matrix difference = dequantize(round_to_nearest(scaled.view(), consumer.scheme, consumer.scale_dtype, range, consumer.where, importance));
  for (int64_t r = 0; r < weight.rows; ++r)
    for (int64_t c = 0; c < weight.cols; ++c) difference.row(r)[c] = difference.row(r)[c] / column_scales[static_cast<size_t>(c)] - weight.row(r)[c];
  return difference;
}

}  // namespace

ScaleChoice search_awq_scales(const ScaleProblem& problem, const AwqOptions& options) {
  assert(options.steps >= 1 && static_cast<int64_t>(problem.channel_of.size()) == problem.input->in());
  const std::unique_ptr<PackedMatrix> second_moment = pack_moment(problem.input->second_moment.view());
  const std::vector<float> mean_square = problem.input->mean_square();
  std::vector<Matrix> weights;
  for (const RoundedConsumer& consumer : problem.consumers) weights.push_back(pick_rows(consumer, options.most_rows));
  const auto error_of = [&](std::span<const float> scales) {
    std::vector<float> by_column(problem.channel_of.size());
    for (size_t c = 0; c < by_column.size(); ++c) by_column[c] = scales[static_cast<size_t>(problem.channel_of[c])];
    double sum = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      const double share = static_cast<double>(problem.consumers[i].weight.rows) / static_cast<double>(weights[i].rows());
      sum += share * quadratic_form(scaled_rounding_error(weights[i].view(), problem.consumers[i], by_column, mean_square, options.range).view(), *second_moment);
    }
    return sum;
  };

  std::vector<double> mean_abs(problem.input->mean_abs.begin(), problem.input->mean_abs.end());
  std::vector<float> inputs = gather_mean(problem, mean_abs), sizes = mean_weights(problem);
  normalize_to_largest(inputs);
  normalize_to_largest(sizes);
  ScaleChoice best{.scales = std::vector<float>(static_cast<size_t>(problem.channels), 1.0f)};
  best.error = best.scaled_error = error_of(best.scales);
  const auto consider = [&](std::vector<float> scales) {
    const double error = error_of(scales);
    if (error < best.scaled_error) best.scaled_error = error, best.scales = std::move(scales);
  };
  for (int step = 0; step <= options.steps; ++step) {
    const double power = static_cast<double>(step) / options.steps;
    if (step > 0) consider(make_scales(inputs, power, sizes, 0));
    if (step < options.steps) consider(make_scales(inputs, power, sizes, 1 - power));
  }
  return best;
}

std::vector<float> smoothquant_scales(const ScaleProblem& problem, double alpha) {
  std::vector<float> largest(problem.channel_of.size());
  for (const RoundedConsumer& consumer : problem.consumers)
    for (int64_t r = 0; r < consumer.weight.rows; ++r)
      for (size_t c = 0; c < largest.size(); ++c) largest[c] = std::max(largest[c], std::abs(consumer.weight.row(r)[c]));
  const std::vector<float> weights = gather_max(problem, largest), inputs = gather_max(problem, problem.input->max_abs);
  std::vector<float> scales(weights.size(), 1.0f);
  for (size_t j = 0; j < scales.size(); ++j)
    if (weights[j] > 0 && inputs[j] > 0) scales[j] = static_cast<float>(std::pow(double{inputs[j]}, alpha) / std::pow(double{weights[j]}, 1 - alpha));
  return scales;
}

}  // namespace llmc
