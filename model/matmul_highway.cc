#include <algorithm>

#include "core/parallel.h"
#include "core/pooled_memory.h"
#include "model/kernels.h"
#include "model/matmul.h"
#include "model/panel_kernels.h"
#include "model/sparse_kernels.h"

namespace llmc {
namespace {

/// B [depth, columns] of products with A, in panels of columns.
class Panels {
 public:
  Panels(int64_t depth, int64_t columns) : depth_(depth), count_((columns + width() - 1) / width()), memory_(static_cast<size_t>(count_ * depth_ * width()) * sizeof(float)) {}

  static int64_t width() {
    static const int64_t value = panel_width();
    return value;
  }
  int64_t count() const { return count_; }
  /// To be filled before the first product, with zeros in columns that are not there.
  MatrixView operator[](int64_t number) const { return {memory_.as<float>() + number * depth_ * width(), depth_, width(), width()}; }

  /// Fills a panel with at most width() rows of op(B) transposed, as a weight has them.
  void fill_transposed(int64_t number, ConstMatrixView rows) const {
    const MatrixView panel = (*this)[number];
    if (rows.rows < width()) std::fill_n(panel.data, depth_ * width(), 0.0f);
    transpose(rows, panel.column_range(0, rows.rows));
  }
  void fill(int64_t number, ConstMatrixView columns) const {
    const MatrixView panel = (*this)[number];
    for (int64_t k = 0; k < depth_; ++k) {
      std::ranges::copy(columns.row_span(k), panel.row(k));
      std::fill(panel.row(k) + columns.cols, panel.row(k) + width(), 0.0f);
    }
  }

  /// C = alpha · A · B[row…, panels from `first` on] + bias, with as many rows of B as A has columns and so many panels as C needs.
  /// `bias` has the panels' columns. `prepare` gives a product its rows, from some columns of A.
  template <typename Prepare>
  void multiply(float alpha, ConstMatrixView a, int64_t row, int64_t first, const float* bias, MatrixView c, const Prepare& prepare) const {
    constexpr int64_t part = 4096;  // of the depth: so much of a panel stays in the second-level cache (512 KB) while A goes by
    const int64_t whole = c.cols / width() * width();
    const MatrixView rest{thread_scratch<float, 10>(static_cast<size_t>(c.rows * width())).data(), c.rows, width(), width()};  // of a panel that C has in part
    for (int64_t from = 0; from < a.cols; from += part) {
      const ConstMatrixView some = a.column_range(from, std::min(part, a.cols - from));
      PanelProduct product{.rows = c.rows, .depth = some.cols, .is_first = from == 0, .is_last = from + part >= a.cols, .alpha = alpha};
      prepare(some, product);
      for (int64_t column = 0; column < c.cols; column += width()) {
        const MatrixView sums = column < whole ? c.column_range(column, width()) : rest;
        const int64_t panel = first + column / width();
        product.b = (*this)[panel].row(row + from);
        product.next = column + width() < c.cols ? (*this)[panel + 1].row(row + from) : nullptr;
        product.y = sums.data, product.y_stride = sums.stride, product.bias = bias + column;
        multiply_panel(product);
      }
    }
    for (int64_t r = 0; whole < c.cols && r < c.rows; ++r) std::copy_n(rest.row(r), c.cols - whole, c.row(r) + whole);
  }

 private:
  int64_t depth_, count_;
  PooledMemory memory_;
};

/// Rows as they lie: those of factors meet too few columns to be worth more.
void take_as_is(ConstMatrixView a, PanelProduct& product) { product.a = a.data, product.a_stride = a.stride; }

/// For use until the thread's next call.
ConstMatrixView round_rows(ConstMatrixView x) {
  const MatrixView rounded{thread_scratch<float, 0>(static_cast<size_t>(x.rows * x.cols)).data(), x.rows, x.cols, x.cols};
  for (int64_t r = 0; r < x.rows; ++r) round_to_bf16(x.row_span(r), rounded.row_span(r));
  return rounded;
}

/// Interleaved, for use until the thread's next call: rows whole pages apart would all lie in one set of the first-level cache.
std::span<float> interleave(ConstMatrixView a, PanelProduct& product) {
  const std::span<float> all = thread_scratch<float, 1>(static_cast<size_t>((a.rows + panel_rows - 1) / panel_rows * panel_rows * a.cols));
  for (int64_t r = 0; r < a.rows; r += panel_rows) {
    const int64_t rows = std::min(panel_rows, a.rows - r);
    float* const to = all.data() + r * a.cols;
    if (rows < panel_rows) std::fill_n(to, panel_rows * a.cols, 0.0f);
    transpose(a.row_range(r, rows), {to, a.cols, rows, panel_rows});
  }
  product.a = all.data(), product.a_stride = 0;
  return all;
}

void take_interleaved(ConstMatrixView a, PanelProduct& product) { interleave(a, product); }

void take_rounded(ConstMatrixView a, PanelProduct& product) {
  const std::span<float> all = interleave(a, product);
  round_to_bf16(all, all);
}

class HighwayMatrix final : public PackedMatrix {
 public:
  HighwayMatrix(int64_t out, int64_t in, std::span<const float> bias, Precision precision, const ReadRows& read) : precision_(precision), panels_(in, out), bias_(static_cast<size_t>(panels_.count() * Panels::width())) {
    std::ranges::copy(bias, bias_.begin());
    parallel_for(panels_.count(), [&](int64_t number) {
      const int64_t first = number * Panels::width();
      const ConstMatrixView rows = read(first, std::min(Panels::width(), out - first));
      panels_.fill_transposed(number, precision_ == Precision::bf16 ? round_rows(rows) : rows);
    });
  }

  int64_t most_rows() const override { return 4 * tile_rows; }

  void apply(ConstMatrixView x, MatrixView y) const override { panels_.multiply(1, x, 0, 0, bias_.data(), y, precision_ == Precision::bf16 ? take_rounded : take_interleaved); }

 private:
  Precision precision_;
  Panels panels_;
  std::vector<float> bias_;
};

class HighwayFactor final : public PackedFactor {
 public:
  HighwayFactor(ConstMatrixView b, Transpose transpose) : b_(b), transpose_(transpose), panels_(transpose == Transpose::yes ? b.cols : b.rows, transpose == Transpose::yes ? b.rows : b.cols), no_bias_(static_cast<size_t>(panels_.count() * Panels::width())) {}

  void pack() override {
    const int64_t columns = transpose_ == Transpose::yes ? b_.rows : b_.cols;
    for (int64_t number = 0; number < panels_.count(); ++number) {
      const int64_t first = number * Panels::width(), count = std::min(Panels::width(), columns - first);
      if (transpose_ == Transpose::yes) panels_.fill_transposed(number, b_.row_range(first, count));
      else panels_.fill(number, b_.column_range(first, count));
    }
  }

  void multiply(float alpha, ConstMatrixView a, int64_t row, int64_t column, MatrixView c) const override { panels_.multiply(alpha, a, row, column / Panels::width(), no_bias_.data(), c, take_as_is); }

 private:
  ConstMatrixView b_;
  Transpose transpose_;
  Panels panels_;
  std::vector<float> no_bias_;
};

}  // namespace

std::unique_ptr<PackedMatrix> pack_highway(ConstMatrixView weight, std::span<const float> bias, Precision precision) { return std::make_unique<HighwayMatrix>(weight.rows, weight.cols, bias, precision, read_rows_of(weight)); }

std::unique_ptr<PackedMatrix> pack_highway_rows(std::span<const WeightRows> weights, Precision precision) {
  const std::vector<float> bias = join_biases(weights);
  return std::make_unique<HighwayMatrix>(static_cast<int64_t>(bias.size()), weights[0].rows.cols(), bias, precision, read_rows_of(weights));
}

std::unique_ptr<PackedFactor> pack_highway_factor(ConstMatrixView b, Transpose transpose, Precision) { return std::make_unique<HighwayFactor>(b, transpose); }

}  // namespace llmc
