#include "passes/hidden_match.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>

#include "core/parallel.h"
#include "core/random.h"

namespace llmc {
namespace {

constexpr int64_t match_rows_at_once = 64;  ///< rows that one task works on

bool are_cut(std::span<const int64_t> origins) {
  return std::ranges::all_of(origins, [](int64_t origin) { return origin >= 0; });
}

}  // namespace

std::vector<int64_t> pair_blocks(std::span<const int64_t> origins, int64_t teacher_blocks) {
  const auto count = static_cast<int64_t>(origins.size());
  const bool is_cut = are_cut(origins);
  std::vector<int64_t> pairs;
  for (int64_t i = 0; i < count; ++i) {
    if (i + 1 == count) pairs.push_back(teacher_blocks);
    else pairs.push_back(is_cut ? origins[static_cast<size_t>(i + 1)] : std::max<int64_t>(1, (i + 1) * teacher_blocks / count));
  }
  return pairs;
}

std::vector<int64_t> pair_attention(std::span<const int64_t> origins, int64_t teacher_blocks) {
  if (are_cut(origins)) return {origins.begin(), origins.end()};
  std::vector<int64_t> pairs = pair_blocks(origins, teacher_blocks);
  for (int64_t& block : pairs) --block;
  return pairs;
}

HiddenMatch::HiddenMatch(std::vector<int64_t> pairs, int64_t student_width, int64_t teacher_width, uint64_t seed) : pairs_(std::move(pairs)) {
  if (student_width == teacher_width) return;
  for (size_t i = 0; i < pairs_.size(); ++i) {
    Random random(seed, fmt::format("projection {}", i));
    Matrix start(teacher_width, student_width);
    const double size = 1 / std::sqrt(static_cast<double>(student_width));
    for (float& value : start.values()) value = static_cast<float>(size * random.normal());
    auto tensor = std::make_unique<StoredTensor>(StoredTensor{.name = fmt::format("projection.{}", i), .dtype = DType::f32, .shape = {teacher_width, student_width}});
    tensor->form = FloatData(std::move(start));
    LearnedFloats values(*tensor, LearnedFloats::Zeros::learned);
    projections_.push_back({.tensor = std::move(tensor), .values = std::move(values), .gradient = Matrix(teacher_width, student_width)});
  }
}

TrainableModel::HiddenLoss HiddenMatch::compare(const Batch& batch, std::span<const Matrix> teacher_states, double weight) {
  assert(teacher_states.size() == pairs_.size());
  loss_ = 0;
  return [this, &batch, teacher_states, weight](int64_t blocks, ConstMatrixView hidden, MatrixView d_hidden) {
    const auto pair = static_cast<size_t>(blocks - 1);
    add(pair, batch, teacher_states[pair], weight, hidden, d_hidden);
  };
}

void HiddenMatch::add(size_t pair, const Batch& batch, const Matrix& wanted, double weight, ConstMatrixView hidden, MatrixView d_hidden) {
  double size = 0;
  for (const auto& [first, length] : batch.rows.ranges)
    for (int64_t r = first; r < first + length; ++r)
      for (const float value : wanted.view().row_span(r)) size += double{value} * value;
  const double share = 1 / (std::max(size, 1e-30) * static_cast<double>(pairs_.size()));
  const auto slope = static_cast<float>(2 * weight * share);

  Matrix values;  // of the projection
  Matrix difference(hidden.rows, wanted.cols());  // P h − t, 0 between sequences
  if (!projections_.empty()) {
    values = Matrix(wanted.cols(), hidden.cols);
    projections_[pair].values.write_values(values);
    parallel_pieces(hidden.rows, match_rows_at_once, [&](int64_t first, int64_t last) { multiply(default_backend(), 1, hidden.row_range(first, last - first), values.view(), Transpose::yes, difference.view().row_range(first, last - first)); });
  }
  std::vector<uint8_t> counts(static_cast<size_t>(hidden.rows));
  for (const auto& [first, length] : batch.rows.ranges) std::fill_n(counts.begin() + first, length, uint8_t{1});
  std::vector<double> squares(static_cast<size_t>(hidden.rows));
  parallel_pieces(hidden.rows, match_rows_at_once, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      float* row = difference.row(r);
      const float* from = projections_.empty() ? hidden.row(r) : row;
      for (int64_t c = 0; c < difference.cols(); ++c) {
        row[c] = counts[static_cast<size_t>(r)] ? from[c] - wanted.row(r)[c] : 0;
        squares[static_cast<size_t>(r)] += double{row[c]} * row[c];
      }
    }
  });
  for (const double square : squares) loss_ += share * square;

  Matrix back;  // what the states feel: Pᵀ (P h − t)
  if (!projections_.empty()) {
    back = Matrix(hidden.rows, hidden.cols);
    parallel_pieces(hidden.rows, match_rows_at_once, [&](int64_t first, int64_t last) { multiply(default_backend(), 1, difference.view().row_range(first, last - first), values.view(), Transpose::no, back.view().row_range(first, last - first)); });
    for (float& value : difference.values()) value *= slope;
    add_weight_gradient(default_backend(), Precision::f32, difference.view(), hidden, projections_[pair].gradient.view());
  }
  const Matrix& pull = projections_.empty() ? difference : back;
  for (int64_t r = 0; r < hidden.rows; ++r)
    for (int64_t c = 0; c < hidden.cols; ++c) d_hidden.row(r)[c] += slope * pull.row(r)[c];
}

}  // namespace llmc
