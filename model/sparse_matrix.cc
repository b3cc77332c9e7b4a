#include "model/sparse_matrix.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "model/sparse_kernels.h"

namespace llmc {
namespace {

static_assert(PackedMatrix::tile_rows == tile_tokens);

// Features of a block (32 KB) are read once for each row of a panel, whose sums (64 KB) pass by. Narrower blocks leave too few
// kept columns for each pass over the sums, wider ones are read from the second cache: both are slower (bench/sparse_products.cc).
constexpr int64_t block_cols = 128;
constexpr int64_t panel_rows = 256;

/// Of this thread, aligned to a cache line: three of four loads of 64 bytes would cross one otherwise.
template <int slot>
float* aligned_scratch(int64_t count) {
  constexpr size_t line = 64;
  const std::span<float> scratch = thread_scratch<float, slot>(static_cast<size_t>(count) + line / sizeof(float));
  const auto address = reinterpret_cast<uintptr_t>(scratch.data());
  return scratch.data() + (line - address % line) % line / sizeof(float);
}

class StripMatrix final : public PackedMatrix {
 public:
  StripMatrix(ConstMatrixView weight, std::span<const float> bias, StripHeight height) : out_(weight.rows), in_(weight.cols), height_(static_cast<int64_t>(height)), bias_(bias.begin(), bias.end()) {
    for (int64_t panel = 0; panel < out_; panel += panel_rows)
      for (int64_t block = 0; block < in_; block += block_cols) add_run(weight, panel, block);
    columns_.shrink_to_fit();
    values_.shrink_to_fit();
  }

  void apply(ConstMatrixView x, MatrixView y) const override {
    assert(x.rows <= tile_rows && x.cols == in_ && y.cols == out_);
    const MatrixView features{aligned_scratch<0>(in_ * tile_rows), in_, x.rows, tile_rows};
    if (x.rows < tile_rows) std::fill_n(features.data, in_ * tile_rows, 0.0f);
    transpose(x, features);
    std::array<float, tile_rows> not_finite{};
    add_not_finite(features.data, in_, not_finite.data());
    float* const sums = aligned_scratch<1>((panel_rows + height_) * tile_rows);
    auto run = runs_.begin();
    for (int64_t panel = 0; panel < out_; panel += panel_rows) {
      const int64_t rows = std::min(panel_rows, out_ - panel);
      start_sums(bias_.empty() ? nullptr : bias_.data() + panel, not_finite.data(), rows, sums);
      std::fill_n(sums + rows * tile_rows, (height_ - 1) * tile_rows, 0.0f);  // rows that an incomplete last strip lacks
      for (int64_t block = 0; block < in_; block += block_cols, ++run)
        add_strips({.height = static_cast<int>(height_), .ends = std::span(ends_).subspan(run->end, count_strips(rows) + 1), .columns = columns_.data() + run->column, .values = values_.data() + run->column * static_cast<size_t>(height_)}, features.row(block), x.rows, sums);
      transpose({sums, rows, x.rows, tile_rows}, y.column_range(panel, rows));
    }
  }

 private:
  /// The strips of one panel over one block of columns.
  struct Run {
    size_t end = 0;     ///< where its `ends` start
    size_t column = 0;  ///< and its columns
  };

  size_t count_strips(int64_t rows) const { return static_cast<size_t>((rows + height_ - 1) / height_); }

  void add_run(ConstMatrixView weight, int64_t panel, int64_t block) {
    runs_.push_back({.end = ends_.size(), .column = columns_.size()});
    ends_.push_back(0);
    const int64_t panel_end = std::min(out_, panel + panel_rows), block_end = std::min(in_, block + block_cols);
    for (int64_t first = panel; first < panel_end; first += height_) {
      const int64_t last = std::min(panel_end, first + height_);
      for (int64_t col = block; col < block_end; ++col) {
        bool is_kept = false;
        for (int64_t r = first; r < last; ++r) is_kept |= weight.row(r)[col] != 0;
        if (!is_kept) continue;
        columns_.push_back(static_cast<uint16_t>(col - block));
        for (int64_t r = first; r < first + height_; ++r) values_.push_back(r < last ? weight.row(r)[col] : 0.0f);
      }
      ends_.push_back(static_cast<uint32_t>(columns_.size() - runs_.back().column));
    }
  }

  int64_t out_, in_, height_;
  std::vector<float> bias_;
  std::vector<Run> runs_;  ///< panel by panel, block by block in each
  std::vector<uint32_t> ends_;
  std::vector<uint16_t> columns_;
  std::vector<float> values_;
};

/// Share of (strip, column) pairs that are kept, for strips of 1, 2 and 4 rows, in the first four of every `step` rows.
std::array<double, 3> kept_shares(ConstMatrixView weight, int64_t step = 4) {
  std::array<int64_t, 3> kept{};
  int64_t counted = 0;  // rows
  std::vector<uint8_t> rows(static_cast<size_t>(weight.cols));  // bit r: row r of four is not zero there
  for (int64_t first = 0; first < weight.rows; first += step) {
    counted += std::min<int64_t>(4, weight.rows - first);
    std::ranges::fill(rows, 0);
    for (int64_t r = 0; r < std::min<int64_t>(4, weight.rows - first); ++r) {
      const float* const values = weight.row(first + r);
      for (size_t c = 0; c < rows.size(); ++c) rows[c] |= static_cast<uint8_t>((values[c] != 0) << r);
    }
    std::array<int64_t, 16> counts{};
    for (uint8_t bits : rows) ++counts[bits];
    for (size_t bits = 1; bits < 16; ++bits) {
      kept[0] += counts[bits] * std::popcount(bits);
      kept[1] += counts[bits] * (((bits & 3) != 0) + ((bits & 12) != 0));
      kept[2] += counts[bits];
    }
  }
  std::array<double, 3> shares{};
  for (size_t i = 0; i < 3; ++i) {
    const int64_t height = int64_t{1} << i;
    shares[i] = static_cast<double>(kept[i]) / static_cast<double>((counted + height - 1) / height * weight.cols);
  }
  return shares;
}

}  // namespace

std::optional<StripHeight> find_strip_height(ConstMatrixView weight, double dense_time) {
  // Time against the dense product's, fitted to bench/sparse_products.cc: an element that is kept costs more than a dense one
  // (its features come from the cache, not from registers), less so the more rows share them; transposing x and y comes on top.
  constexpr struct {
    StripHeight height;
    double cost;  ///< of an element in a kept column
  } heights[] = {{StripHeight::one, 1.42}, {StripHeight::two, 1.20}, {StripHeight::four, 1.08}};
  constexpr double transposition = 12;  // elements
  constexpr double most = 0.9;          // what is nearly as fast anyway stays dense
  const auto cheapest = [&](const std::array<double, 3>& shares) {
    std::pair<double, StripHeight> best{std::numeric_limits<double>::infinity(), StripHeight::one};
    for (size_t i = 0; i < shares.size(); ++i)
      if (const double cost = heights[i].cost * shares[i]; cost < best.first) best = {cost, heights[i].height};
    return best;
  };
  constexpr int64_t sampled = 1024;  // rows, from which on every 16th strip is looked at first: a dense weight shows at once
  const double never = 1.05 * dense_time;
  if (weight.rows >= sampled && cheapest(kept_shares(weight, 64)).first > never) return std::nullopt;
  const auto [cost, height] = cheapest(kept_shares(weight));
  return cost < most * dense_time - transposition / static_cast<double>(weight.cols) - transposition / static_cast<double>(weight.rows) ? std::optional(height) : std::nullopt;
}

std::unique_ptr<PackedMatrix> pack_strips(ConstMatrixView weight, std::span<const float> bias, StripHeight height) { return std::make_unique<StripMatrix>(weight, bias, height); }

}  // namespace llmc
