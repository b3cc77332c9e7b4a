#include "model/linear.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "core/error.h"
#include "core/parallel.h"
#include "model/matmul.h"

namespace llmc {
namespace {

constexpr MatmulRow rows[] = {
#ifdef LLMC_ONEDNN
    {.backend = MatmulBackend::onednn, .name = "onednn", .pack = pack_onednn, .multiply = multiply_onednn},
#endif
    {.backend = MatmulBackend::eigen, .name = "eigen", .pack = pack_eigen, .multiply = multiply_eigen},
};

const MatmulRow& get_row(MatmulBackend backend) {
  const auto row = std::ranges::find(rows, backend, &MatmulRow::backend);
  if (row == std::end(rows)) throw Error(ErrorKind::usage, fmt::format("this llmc was built without {}", to_string(backend)));
  return *row;
}

}  // namespace

std::span<const MatmulRow> matmul_list() { return rows; }

std::string_view to_string(Precision precision) { return precision == Precision::f32 ? "f32" : "bf16"; }
std::string_view to_string(MatmulBackend backend) { return backend == MatmulBackend::onednn ? "onednn" : "eigen"; }
bool has_backend(MatmulBackend backend) { return std::ranges::find(rows, backend, &MatmulRow::backend) != std::end(rows); }
MatmulBackend default_backend() { return rows[0].backend; }

struct Linear::Weights {
  int64_t out = 0;
  int64_t in = 0;
  std::unique_ptr<PackedMatrix> packed;
};

Linear::Linear(const StoredTensor& weight, const StoredTensor* bias, Precision precision, MatmulBackend backend) : weights_(std::make_unique<Weights>()) {
  const MatmulRow& row = get_row(backend);
  const Matrix values = read_matrix(weight);
  const Matrix bias_values = bias ? read_matrix(*bias) : Matrix();
  assert(!bias || static_cast<int64_t>(bias_values.values().size()) == values.rows());
  weights_->out = values.rows();
  weights_->in = values.cols();
  weights_->packed = row.pack(values.view(), bias_values.values(), precision);
}

Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;
Linear::~Linear() = default;

int64_t Linear::in() const { return weights_->in; }
int64_t Linear::out() const { return weights_->out; }

void Linear::apply(ConstMatrixView x, MatrixView y) const {
  assert(x.cols == in() && y.cols == out() && x.rows == y.rows);
  parallel_pieces(x.rows, PackedMatrix::tile_rows, [&](int64_t first, int64_t last) {
    weights_->packed->apply(x.row_range(first, last - first), y.row_range(first, last - first));
  });
}

void multiply(MatmulBackend backend, float alpha, ConstMatrixView a, ConstMatrixView b, Transpose transpose_b, MatrixView c) {
  assert(c.rows == a.rows && a.cols == (transpose_b == Transpose::yes ? b.cols : b.rows) && c.cols == (transpose_b == Transpose::yes ? b.rows : b.cols));
  get_row(backend).multiply(alpha, a, b, transpose_b, c);
}

}  // namespace llmc
