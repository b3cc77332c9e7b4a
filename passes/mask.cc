#include "passes/mask.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <span>

#include "core/error.h"
#include "core/parallel.h"

namespace llmc {
namespace {

/// Bits of |x|: they order like the magnitudes.
uint32_t score_bits(float x) { return std::bit_cast<uint32_t>(x) & 0x7fffffffu; }

/// The scores of units, [rows / block rows, cols / block columns]; `buffer` owns them where a unit is more than a weight.
ConstMatrixView unit_scores(ConstMatrixView scores, const SparsityPattern& pattern, Matrix& buffer) {
  if (!pattern.is_block()) return scores;
  buffer = Matrix(scores.rows / pattern.block_rows, scores.cols / pattern.block_cols);
  parallel_pieces(buffer.rows(), 8, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0; c < buffer.cols(); ++c) {
        double sum = 0;
        for (int64_t i = 0; i < pattern.block_rows; ++i)
          for (int64_t j = 0; j < pattern.block_cols; ++j) {
            const double score = scores.row(r * pattern.block_rows + i)[c * pattern.block_cols + j];
            sum += score * score;
          }
        buffer.row(r)[c] = static_cast<float>(std::sqrt(sum));
      }
  });
  return buffer.view();
}

/// Marks the scores under `threshold`, and the first `ties` equal to it.
void mark_below(std::span<const float> scores, uint32_t threshold, int64_t& ties, uint8_t* gone) {
  for (size_t i = 0; i < scores.size(); ++i) {
    const uint32_t bits = score_bits(scores[i]);
    gone[i] = bits < threshold || (bits == threshold && ties-- > 0);
  }
}

/// Marks the `count` lowest of all rows. `bits` is working memory.
void mark_lowest(ConstMatrixView scores, int64_t count, uint8_t* gone, std::vector<uint32_t>& bits) {
  if (count <= 0) return;
  bits.clear();
  bits.reserve(static_cast<size_t>(scores.rows * scores.cols));
  for (int64_t r = 0; r < scores.rows; ++r) std::ranges::transform(scores.row_span(r), std::back_inserter(bits), score_bits);
  const auto nth = bits.begin() + (count - 1);
  std::ranges::nth_element(bits, nth);
  const uint32_t threshold = *nth;
  int64_t ties = count - std::count_if(bits.begin(), nth, [&](uint32_t b) { return b < threshold; });
  for (int64_t r = 0; r < scores.rows; ++r) mark_below(scores.row_span(r), threshold, ties, gone + r * scores.cols);
}

/// The mask of weights from the marks of units.
Mask spread(std::vector<uint8_t> units, const SparsityPattern& pattern, int64_t rows, int64_t cols) {
  if (!pattern.is_block()) return {.rows = rows, .cols = cols, .gone = std::move(units)};
  Mask mask{.rows = rows, .cols = cols, .gone = std::vector<uint8_t>(static_cast<size_t>(rows * cols))};
  const int64_t unit_cols = cols / pattern.block_cols;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) mask.row(r)[c] = units[static_cast<size_t>(r / pattern.block_rows * unit_cols + c / pattern.block_cols)];
  return mask;
}

constexpr std::array<std::string_view, 3> scope_names = {"tensor", "row", "global"};

}  // namespace

int64_t Mask::zeros() const { return std::ranges::count(gone, uint8_t{1}); }

Mask find_zeros(ConstMatrixView values) {
  Mask mask{.rows = values.rows, .cols = values.cols, .gone = std::vector<uint8_t>(static_cast<size_t>(values.rows * values.cols))};
  for (int64_t r = 0; r < values.rows; ++r)
    for (int64_t c = 0; c < values.cols; ++c) mask.row(r)[c] = values.row(r)[c] == 0;
  return mask;
}

int64_t apply(const Mask& mask, MatrixView values) {
  assert(values.rows == mask.rows && values.cols == mask.cols);
  int64_t changed = 0;
  for (int64_t r = 0; r < mask.rows; ++r)
    for (int64_t c = 0; c < mask.cols; ++c) {
      if (!mask.row(r)[c]) continue;
      changed += values.row(r)[c] != 0;
      values.row(r)[c] = 0;
    }
  return changed;
}

std::string_view to_string(RankScope scope) { return scope_names[static_cast<size_t>(scope)]; }

RankScope parse_rank_scope(std::string_view text, const std::string& where) {
  const auto found = std::ranges::find(scope_names, text);
  if (found == scope_names.end()) throw Error(ErrorKind::usage, fmt::format("{}: scope '{}' is not known; expected tensor, row or global", where, text));
  return static_cast<RankScope>(found - scope_names.begin());
}

int64_t ranked_units(const SparsityPattern& pattern, RankScope scope, int64_t rows, int64_t cols) {
  const int64_t per_row = cols / pattern.block_cols;
  return scope == RankScope::row ? per_row : rows / pattern.block_rows * per_row;
}

int64_t share_of(double sparsity, int64_t units) { return static_cast<int64_t>(std::llround(sparsity * static_cast<double>(units))); }

int64_t planned_zeros(const SparsityPattern& pattern, RankScope scope, double sparsity, int64_t rows, int64_t cols) {
  if (pattern.is_n_of_m()) return rows * cols / pattern.group * (pattern.group - pattern.kept);
  const int64_t units = ranked_units(pattern, RankScope::tensor, rows, cols), together = ranked_units(pattern, scope, rows, cols);
  return together == 0 ? 0 : units / together * share_of(sparsity, together) * pattern.block_rows * pattern.block_cols;
}

Mask choose_mask(ConstMatrixView scores, const SparsityPattern& pattern, RankScope scope, int64_t gone) {
  assert(reason_against(pattern, scores.rows, scores.cols).empty() && scope != RankScope::global);
  Matrix buffer;
  const ConstMatrixView units = unit_scores(scores, pattern, buffer);
  std::vector<uint8_t> marks(static_cast<size_t>(units.rows * units.cols));
  if (!pattern.is_n_of_m() && scope == RankScope::tensor) {
    std::vector<uint32_t> bits;
    mark_lowest(units, gone, marks.data(), bits);
  } else {
    const int64_t together = pattern.is_n_of_m() ? pattern.group : units.cols, count = pattern.is_n_of_m() ? pattern.group - pattern.kept : gone;
    parallel_pieces(units.rows, 16, [&](int64_t first, int64_t last) {
      std::vector<uint32_t> bits;
      for (int64_t r = first; r < last; ++r)
        for (int64_t begin = 0; begin < units.cols; begin += together) mark_lowest(units.row_range(r, 1).column_range(begin, together), count, marks.data() + r * units.cols + begin, bits);
    });
  }
  return spread(std::move(marks), pattern, scores.rows, scores.cols);
}

void GlobalRanking::count(ConstMatrixView scores) {
  Matrix buffer;
  const ConstMatrixView units = unit_scores(scores, pattern_, buffer);
  for (int64_t r = 0; r < units.rows; ++r)
    for (float score : units.row_span(r)) {
      const uint32_t bits = score_bits(score);
      if (pass_ == 0) ++histogram_[bits >> 16];
      else if (bits >> 16 == prefix_) ++histogram_[bits & 0xffffu];
    }
}

void GlobalRanking::refine() {
  uint32_t bin = 0;
  while (bin + 1 < histogram_.size() && histogram_[bin] < gone_) gone_ -= histogram_[bin++];
  prefix_ = pass_ == 0 ? bin : prefix_ << 16 | bin;
  std::ranges::fill(histogram_, 0);
  ++pass_;
}

Mask GlobalRanking::choose(ConstMatrixView scores) {
  Matrix buffer;
  const ConstMatrixView units = unit_scores(scores, pattern_, buffer);
  std::vector<uint8_t> marks(static_cast<size_t>(units.rows * units.cols));
  for (int64_t r = 0; r < units.rows; ++r) mark_below(units.row_span(r), prefix_, gone_, marks.data() + r * units.cols);
  return spread(std::move(marks), pattern_, scores.rows, scores.cols);
}

}  // namespace llmc
