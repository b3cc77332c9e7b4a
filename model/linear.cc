#include "model/linear.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "core/error.h"
#include "core/parallel.h"
#include "model/kernels.h"
#include "model/matmul.h"
#include "model/matmul_amx.h"
#include "model/quantized_linear.h"
#include "model/sparse_matrix.h"

namespace llmc {
namespace {

constexpr MatmulRow libraries[] = {
#ifdef LLMC_ONEDNN
    {.backend = MatmulBackend::onednn, .name = "onednn", .pack = pack_onednn, .pack_rows = nullptr, .pack_gated = nullptr, .multiply = multiply_onednn, .pack_factor = nullptr, .add_transposed = add_transposed_onednn, .add_transposed_bf16 = add_transposed_bf16_onednn},
#endif
    {.backend = MatmulBackend::eigen, .name = "eigen", .pack = pack_eigen, .pack_rows = nullptr, .pack_gated = nullptr, .multiply = multiply_eigen, .pack_factor = nullptr, .add_transposed = add_transposed_eigen, .add_transposed_bf16 = add_transposed_bf16_eigen},
};

/// Whether oneDNN multiplies with weights that it has packed before: its kernels for less than AVX-512 pack them each time.
bool keeps_weights_packed(const MatmulRow& library) {
#ifdef __x86_64__
  return library.backend == MatmulBackend::onednn && __builtin_cpu_supports("avx512bw");
#else
  static_cast<void>(library);
  return false;
#endif
}

std::vector<MatmulRow> list_backends() {
  std::vector<MatmulRow> list(std::begin(libraries), std::end(libraries));
  const MatmulRow library = list.front();  // for what the others have no products of their own
  MatmulRow highway = library;
  highway.backend = MatmulBackend::highway;
  highway.name = "highway";
  highway.f32_time = 0.7;
  highway.pack = pack_highway;
  highway.pack_rows = pack_highway_rows;
  highway.pack_factor = pack_highway_factor;
  list.insert(list.begin() + (keeps_weights_packed(library) ? 1 : 0), highway);
#ifdef __x86_64__
  if (has_amx()) {
    MatmulRow amx = library;
    amx.backend = MatmulBackend::amx;
    amx.name = "amx";
    amx.f32_time = 0.4;
    amx.pack = pack_amx;
    amx.pack_rows = pack_amx_rows;
    amx.pack_gated = pack_amx_gated;
    amx.pack_factor = pack_amx_factor;
    list.insert(list.begin(), amx);
  }
#endif
  return list;
}

const MatmulRow* find_row(MatmulBackend backend) {
  const auto row = std::ranges::find(matmul_list(), backend, &MatmulRow::backend);
  return row == matmul_list().end() ? nullptr : &*row;
}

const MatmulRow& get_row(MatmulBackend backend) {
  const MatmulRow* row = find_row(backend);
  if (!row) throw Error(ErrorKind::usage, fmt::format("no products by {} in this build or on this processor", to_string(backend)));
  return *row;
}

}  // namespace

std::span<const MatmulRow> matmul_list() {
  static const std::vector<MatmulRow> list = list_backends();
  return list;
}

std::string_view to_string(Precision precision) { return precision == Precision::f32 ? "f32" : "bf16"; }
Precision parse_precision(const std::string& text, const std::string& what) {
  for (Precision precision : {Precision::f32, Precision::bf16})
    if (text == to_string(precision)) return precision;
  throw Error(ErrorKind::usage, fmt::format("{}: expected f32 or bf16, found '{}'", what, text));
}
std::string_view to_string(MatmulBackend backend) {
  constexpr std::string_view names[] = {"amx", "onednn", "highway", "eigen"};
  return names[static_cast<size_t>(backend)];
}
bool has_backend(MatmulBackend backend) { return find_row(backend) != nullptr; }
MatmulBackend default_backend() { return matmul_list().front().backend; }

void PackedMatrix::add(ConstMatrixView x, MatrixView y) const {
  const MatrixView change{thread_scratch<float, 8>(static_cast<size_t>(y.rows * y.cols)).data(), y.rows, y.cols, y.cols};
  apply(x, change);
  for (int64_t r = 0; r < y.rows; ++r) add_to(y.row_span(r), change.row_span(r));
}

/// Rows of a matrix one below the other, each piece packed by itself.
class SlicedMatrix final : public PackedMatrix {
 public:
  void append(std::unique_ptr<PackedMatrix> slice, int64_t rows) { slices_.emplace_back(std::move(slice), rows); }

  int64_t most_rows() const override {
    int64_t rows = slices_.front().first->most_rows();
    for (const auto& [slice, height] : slices_) rows = std::min(rows, slice->most_rows());
    return rows;
  }

  void apply(ConstMatrixView x, MatrixView y) const override {
    int64_t first = 0;
    for (const auto& [slice, rows] : slices_) {
      slice->apply(x, y.column_range(first, rows));
      first += rows;
    }
  }

 private:
  std::vector<std::pair<std::unique_ptr<PackedMatrix>, int64_t>> slices_;
};

/// Whether so few of a sample of the weight's rows are not zero that skipping the zeros may be faster: one that is kept costs more
/// than a dense one.
static bool seems_sparse(const TensorRows& weight, double dense_time) {
  const int64_t every = weight.rows() < 1024 ? 1 : 16;
  std::vector<float> row(static_cast<size_t>(weight.cols()));
  int64_t zeros = 0, count = 0;
  for (int64_t r = 0; r < weight.rows(); r += every) {
    weight.read(r, row);
    zeros += std::ranges::count(row, 0.0f), count += weight.cols();
  }
  return static_cast<double>(count - zeros) < dense_time * static_cast<double>(count);
}

/// nullopt where the layer's input is rounded, or zeros of the weight are to be skipped.
static std::optional<WeightRows> find_dense_rows(const StoredLinear& of, const MatmulRow& row, Precision precision, Zeros zeros) {
  if (find_input_quantization(of.weight)) return std::nullopt;
  TensorRows rows(of.weight);
  if (precision == Precision::f32 && zeros == Zeros::skipped && seems_sparse(rows, row.f32_time)) return std::nullopt;
  return WeightRows{.rows = std::move(rows), .bias = of.bias ? read_matrix(*of.bias) : Matrix()};
}

struct Linear::Weights {
  int64_t out = 0;
  int64_t in = 0;
  bool is_sparse = false;
  std::unique_ptr<PackedMatrix> packed;
};

Linear::Linear(const StoredTensor& weight, const StoredTensor* bias, Precision precision, MatmulBackend backend, Zeros zeros) : weights_(std::make_unique<Weights>()) {
  Matrix bias_values = bias ? read_matrix(*bias) : Matrix();
  weights_->out = weight.rows();
  weights_->in = weight.cols();
  assert(!bias || static_cast<int64_t>(bias_values.values().size()) == weights_->out);
  const auto input = find_input_quantization(weight);
  if (find_execution(weight) == Execution::integers) {
    weights_->packed = make_integer_linear(read_codes(weight), bias_values.values(), *input, backend);
  } else {
    const MatmulRow& row = get_row(backend);
    const bool skips = precision == Precision::f32 && zeros == Zeros::skipped;
    const auto pack = [&](ConstMatrixView values, std::span<const float> biases) {
      const auto strips = skips ? find_strip_height(values, row.f32_time) : std::nullopt;
      weights_->is_sparse |= strips.has_value();
      return strips ? pack_strips(values, biases, *strips) : row.pack(values, biases, precision);
    };
    constexpr int64_t slice = 16384;  // rows: only output heads have more, and are never in memory a second time
    TensorRows stored_rows = row.pack_rows ? TensorRows(weight) : TensorRows();
    if (row.pack_rows && !(skips && seems_sparse(stored_rows, row.f32_time))) {
      const WeightRows all{.rows = std::move(stored_rows), .bias = std::move(bias_values)};
      weights_->packed = row.pack_rows({&all, 1}, precision);
    } else if (weights_->out <= slice) {
      weights_->packed = pack(read_matrix(weight).view(), bias_values.values());
    } else {
      const TensorRows rows(weight);
      auto slices = std::make_unique<SlicedMatrix>();
      for (int64_t first = 0; first < weights_->out; first += slice) {
        Matrix values(std::min(slice, weights_->out - first), weights_->in);
        parallel_pieces(values.rows(), 64, [&](int64_t begin, int64_t end) {
          for (int64_t r = begin; r < end; ++r) rows.read(first + r, values.view().row_span(r));
        });
        const std::span<const float> biases = bias_values.values();
        slices->append(pack(values.view(), biases.empty() ? biases : biases.subspan(static_cast<size_t>(first), static_cast<size_t>(values.rows()))), values.rows());
      }
      weights_->packed = std::move(slices);
    }
    if (input) weights_->packed = make_simulated_linear(std::move(weights_->packed), *input);
  }
}

Linear::Linear(ConstMatrixView weight, std::span<const float> bias, Precision precision, MatmulBackend backend) : weights_(std::make_unique<Weights>()) {
  assert(bias.empty() || static_cast<int64_t>(bias.size()) == weight.rows);
  weights_->out = weight.rows;
  weights_->in = weight.cols;
  weights_->packed = get_row(backend).pack(weight, bias, precision);
}

std::optional<Linear> Linear::make_joined(std::span<const StoredLinear> weights, Precision precision, MatmulBackend backend, Zeros zeros) {
  const MatmulRow& row = get_row(backend);
  std::vector<WeightRows> rows;
  Linear result;
  for (const StoredLinear& of : weights) {
    auto found = row.pack_rows ? find_dense_rows(of, row, precision, zeros) : std::nullopt;
    if (!found) return std::nullopt;
    result.weights_->out += found->rows.rows();
    result.weights_->in = found->rows.cols();
    rows.push_back(std::move(*found));
  }
  result.weights_->packed = row.pack_rows(rows, precision);
  return result;
}

std::optional<Linear> Linear::make_gated(const StoredLinear& gate, const StoredLinear& up, Activation activation, Precision precision, MatmulBackend backend, Zeros zeros) {
  const MatmulRow& row = get_row(backend);
  if (!row.pack_gated) return std::nullopt;
  auto gate_rows = find_dense_rows(gate, row, precision, zeros), up_rows = find_dense_rows(up, row, precision, zeros);
  if (!gate_rows || !up_rows) return std::nullopt;
  Linear result;
  result.weights_->out = gate_rows->rows.rows();
  result.weights_->in = gate_rows->rows.cols();
  assert(up_rows->rows.rows() == result.out() && up_rows->rows.cols() == result.in());
  result.weights_->packed = row.pack_gated({.gate = std::move(*gate_rows), .up = std::move(*up_rows), .activation = activation}, precision);
  return result;
}

Linear::Linear() : weights_(std::make_unique<Weights>()) {}
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;
Linear::~Linear() = default;

int64_t Linear::in() const { return weights_->in; }
int64_t Linear::out() const { return weights_->out; }
bool Linear::is_sparse() const { return weights_->is_sparse; }

void Linear::apply(ConstMatrixView x, MatrixView y) const {
  assert(x.cols == in() && y.cols == out() && x.rows == y.rows);
  parallel_pieces(x.rows, weights_->packed->most_rows(), [&](int64_t first, int64_t last) {
    weights_->packed->apply(x.row_range(first, last - first), y.row_range(first, last - first));
  });
}

void Linear::add(ConstMatrixView x, MatrixView y) const {
  assert(x.cols == in() && y.cols == out() && x.rows == y.rows);
  parallel_pieces(x.rows, weights_->packed->most_rows(), [&](int64_t first, int64_t last) {
    weights_->packed->add(x.row_range(first, last - first), y.row_range(first, last - first));
  });
}

bool Linear::add_through(const Linear& next, ConstMatrixView x, MatrixView y) const {
  assert(x.cols == in() && next.in() == out() && y.cols == next.out() && x.rows == y.rows);
  if (!weights_->packed->feeds(*next.weights_->packed)) return false;
  parallel_pieces(x.rows, weights_->packed->most_rows(), [&](int64_t first, int64_t last) {
    weights_->packed->add_through(*next.weights_->packed, x.row_range(first, last - first), y.row_range(first, last - first));
  });
  return true;
}

/// A view of B.
class PlainFactor final : public PackedFactor {
 public:
  PlainFactor(const MatmulRow& by, ConstMatrixView b, Transpose transpose) : row_(by), b_(b), transpose_(transpose) {}

  void multiply(float alpha, ConstMatrixView a, int64_t row, int64_t column, MatrixView c) const override {
    const bool is_transposed = transpose_ == Transpose::yes;
    row_.multiply(alpha, a, is_transposed ? b_.row_range(column, c.cols).column_range(row, a.cols) : b_.row_range(row, a.cols).column_range(column, c.cols), transpose_, c);
  }

 private:
  const MatmulRow& row_;
  ConstMatrixView b_;
  Transpose transpose_;
};

std::unique_ptr<PackedFactor> pack_factor(MatmulBackend backend, Precision precision, ConstMatrixView b, Transpose transpose) {
  const MatmulRow& row = get_row(backend);
  return row.pack_factor ? row.pack_factor(b, transpose, precision) : std::make_unique<PlainFactor>(row, b, transpose);
}

void multiply(MatmulBackend backend, float alpha, ConstMatrixView a, ConstMatrixView b, Transpose transpose_b, MatrixView c) {
  assert(c.rows == a.rows && a.cols == (transpose_b == Transpose::yes ? b.cols : b.rows) && c.cols == (transpose_b == Transpose::yes ? b.rows : b.cols));
  get_row(backend).multiply(alpha, a, b, transpose_b, c);
}

void add_transposed_product(MatmulBackend backend, float alpha, ConstMatrixView a, ConstMatrixView b, MatrixView c) {
  assert(a.rows == b.rows && a.cols == c.rows && b.cols == c.cols);
  get_row(backend).add_transposed(alpha, a, b, c);
}

namespace {

constexpr int64_t gradient_tile = 128;   ///< rows of dW that one task works on
constexpr int64_t gradient_depth = 512;  ///< tokens of one product: its operands stay in cache

/// The columns of dy that belong to a tile of dW, dense, through `convert` a row at a time.
template <typename T, typename Convert>
std::span<T> gather(ConstMatrixView dy, std::span<T> out, Convert convert) {
  const auto cols = static_cast<size_t>(dy.cols);
  for (int64_t r = 0; r < dy.rows; ++r) convert(dy.row_span(r), out.subspan(static_cast<size_t>(r) * cols, cols));
  return out;
}

/// Which columns of a row tile of dW are wanted.
enum class Triangle { whole, upper };
int64_t first_column(Triangle triangle, int64_t first_row) { return triangle == Triangle::upper ? first_row : 0; }

/// False where there are no bf16 products; dW is as it was then.
bool add_bf16_gradient(const MatmulRow& row, ConstMatrixView dy, ConstMatrixView x, Triangle triangle, MatrixView dw) {
  uint16_t zero[2] = {};
  float nothing = 0;
  if (!row.add_transposed_bf16(std::span(zero).first(1), std::span(zero).last(1), 1, {&nothing, 1, 1, 1})) return false;
  const auto narrow_x = std::make_unique_for_overwrite<uint16_t[]>(static_cast<size_t>(x.rows * x.cols));
  parallel_pieces(x.rows, PackedMatrix::tile_rows, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) narrow_to_bf16(x.row_span(r), std::span(narrow_x.get() + r * x.cols, static_cast<size_t>(x.cols)));
  });
  parallel_pieces(dw.rows, gradient_tile, [&](int64_t first, int64_t last) {
    const int64_t left = first_column(triangle, first), cols = x.cols - left;
    const MatrixView wanted = dw.row_range(first, last - first).column_range(left, cols);
    Matrix dense(left > 0 ? last - first : 0, cols);  // bf16 products have dense results only
    for (int64_t start = 0; start < x.rows; start += gradient_depth) {
      const int64_t depth = std::min(gradient_depth, x.rows - start);
      const auto dy_count = static_cast<size_t>(depth * (last - first)), x_count = static_cast<size_t>(depth * cols);
      const auto scratch = thread_scratch<uint16_t>(dy_count + x_count);
      const auto narrow_dy = gather(dy.column_range(first, last - first).row_range(start, depth), scratch.first(dy_count), narrow_to_bf16);
      std::span<const uint16_t> right{narrow_x.get() + start * x.cols, x_count};
      if (left > 0) {
        const auto columns = scratch.subspan(dy_count, x_count);
        for (int64_t r = 0; r < depth; ++r) std::copy_n(narrow_x.get() + (start + r) * x.cols + left, cols, columns.data() + r * cols);
        right = columns;
      }
      if (!row.add_transposed_bf16(narrow_dy, right, depth, left > 0 ? dense.view() : wanted)) throw Error(ErrorKind::bug, fmt::format("no bf16 product of {} x {} x {}", last - first, depth, cols));
    }
    for (int64_t r = 0; r < dense.rows(); ++r)
      for (int64_t c = 0; c < cols; ++c) wanted.row(r)[c] += dense.row(r)[c];
  });
  return true;
}

void add_all_products(MatmulBackend backend, Precision precision, ConstMatrixView dy, ConstMatrixView x, Triangle triangle, MatrixView dw) {
  assert(dy.rows == x.rows && dy.cols == dw.rows && x.cols == dw.cols);
  const MatmulRow& row = get_row(backend);
  Matrix rounded;
  if (precision == Precision::bf16) {
    if (add_bf16_gradient(row, dy, x, triangle, dw)) return;
    rounded = Matrix(x.rows, x.cols);
    for (int64_t r = 0; r < x.rows; ++r) round_to_bf16(x.row_span(r), rounded.view().row_span(r));
    x = rounded.view();
  }
  parallel_pieces(dw.rows, gradient_tile, [&](int64_t first, int64_t last) {
    const int64_t left = first_column(triangle, first);
    for (int64_t start = 0; start < x.rows; start += gradient_depth) {
      const int64_t depth = std::min(gradient_depth, x.rows - start);
      ConstMatrixView tile = dy.column_range(first, last - first).row_range(start, depth);
      if (precision == Precision::bf16) tile = {gather(tile, thread_scratch<float>(static_cast<size_t>(depth * tile.cols)), round_to_bf16).data(), depth, tile.cols, tile.cols};
      row.add_transposed(1, tile, x.row_range(start, depth).column_range(left, x.cols - left), dw.row_range(first, last - first).column_range(left, x.cols - left));
    }
  });
}

}  // namespace

void add_weight_gradient(MatmulBackend backend, Precision precision, ConstMatrixView dy, ConstMatrixView x, MatrixView dw) { add_all_products(backend, precision, dy, x, Triangle::whole, dw); }

void add_second_moment(MatmulBackend backend, Precision precision, ConstMatrixView x, MatrixView sums) { add_all_products(backend, precision, x, x, Triangle::upper, sums); }

}  // namespace llmc
