#include "formats/stored_tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "formats/codec.h"

namespace llmc {

int64_t StoredTensor::count() const { return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()); }
int64_t StoredTensor::cols() const { return shape.empty() ? 1 : transposed ? shape.front() : shape.back(); }
int64_t StoredTensor::rows() const { return cols() == 0 ? 0 : count() / cols(); }

namespace {

/// out[c][r] = in[r][c], in tiles that fit the first-level cache.
void transpose(ConstMatrixView in, MatrixView out) {
  constexpr int64_t tile = 32;
  parallel_pieces(in.rows, tile, [&](int64_t first, int64_t last) {
    for (int64_t start = 0; start < in.cols; start += tile)
      for (int64_t r = first; r < last; ++r)
        for (int64_t c = start; c < std::min(in.cols, start + tile); ++c) out.row(c)[r] = in.row(r)[c];
  });
}

Matrix widen(const StoredTensor& tensor, std::span<const std::byte> bytes) {
  const int64_t element = static_cast<int64_t>(get_info(tensor.dtype).bytes);
  const int64_t file_rows = tensor.transposed ? tensor.cols() : tensor.rows();
  Matrix values(file_rows, tensor.transposed ? tensor.rows() : tensor.cols());
  parallel_pieces(file_rows, 64, [&](int64_t first, int64_t last) {
    const auto begin = static_cast<size_t>(first * values.cols());
    const auto size = static_cast<size_t>((last - first) * values.cols());
    decode_floats(tensor.dtype, bytes.subspan(begin * static_cast<size_t>(element), size * static_cast<size_t>(element)), values.values().subspan(begin, size));
  });
  if (!tensor.transposed) return values;
  Matrix logical(tensor.rows(), tensor.cols());
  transpose(values.view(), logical.view());
  return logical;
}

}  // namespace

namespace {

std::optional<ActivationScheme> find_activation_scheme(const StoredTensor& tensor) {
  if (const auto* matrix = find_codes(tensor)) return matrix->scheme.input;
  const auto* data = std::get_if<EncodedData>(&tensor.form);
  return data && data->codec->holds_codes ? data->scheme.input : std::nullopt;
}

}  // namespace

const Scheme* find_scheme(const StoredTensor& tensor) {
  if (const auto* matrix = find_codes(tensor)) return &matrix->scheme;
  const auto* data = std::get_if<EncodedData>(&tensor.form);
  return data && data->codec->holds_codes ? &data->scheme : nullptr;
}

void set_input_grid(StoredTensor& tensor, const InputGrid& grid) {
  const auto scheme = find_activation_scheme(tensor);
  if (!scheme || scheme->range != InputRange::calibrated) throw Error(ErrorKind::bug, fmt::format("tensor {}: has no static input that a grid could be set for", tensor.name));
  tensor.input_grid = grid;
}

std::optional<InputQuantization> find_input_quantization(const StoredTensor& tensor) {
  const auto scheme = find_activation_scheme(tensor);
  if (!scheme) return std::nullopt;
  if (scheme->range == InputRange::per_token) return InputQuantization{.scheme = *scheme, .grid = {}};
  if (!tensor.input_grid) throw Error(ErrorKind::input, fmt::format("tensor {}: a static scheme rounds its input, but no scale of the input is there; expected one from calibration", tensor.name));
  return InputQuantization{.scheme = *scheme, .grid = *tensor.input_grid};
}

void decode(StoredTensor& tensor) {
  const EncodedData* data = std::get_if<EncodedData>(&tensor.form);
  if (!data) return;
  auto meaning = data->codec->decode(tensor, *data);
  std::visit([&](auto& value) { tensor.form = std::move(value); }, meaning);
}

QuantizedMatrix read_codes(const StoredTensor& tensor) {
  if (const auto* quantized = find_codes(tensor)) return *quantized;
  if (const auto* data = std::get_if<EncodedData>(&tensor.form); data && data->codec->holds_codes) return std::get<QuantizedMatrix>(data->codec->decode(tensor, *data));
  throw Error(ErrorKind::bug, fmt::format("tensor {}: holds no codes", tensor.name));
}

Matrix read_matrix(const StoredTensor& tensor) {
  if (const auto* floats = find_floats(tensor)) return floats->find_unrounded() ? *floats->find_unrounded() : widen(tensor, floats->bytes());
  if (const auto* quantized = find_codes(tensor)) return dequantize(*quantized);
  const EncodedData& data = std::get<EncodedData>(tensor.form);
  const auto meaning = data.codec->decode(tensor, data);
  if (const auto* floats = std::get_if<FloatData>(&meaning)) return widen(tensor, floats->bytes());
  return dequantize(std::get<QuantizedMatrix>(meaning));
}

bool hold_same_floats(const StoredTensor& a, const StoredTensor& b) {
  const auto *floats = find_floats(a), *other = find_floats(b);
  if (!floats || !other || floats->find_unrounded() || other->find_unrounded()) return false;
  return a.dtype == b.dtype && a.shape == b.shape && a.transposed == b.transposed && std::ranges::equal(floats->bytes(), other->bytes());
}

TensorRows::TensorRows(const StoredTensor& tensor) : tensor_(&tensor) {
  const auto* floats = find_floats(tensor);
  if (!floats || floats->find_unrounded() || tensor.transposed) values_ = read_matrix(tensor);
}

void TensorRows::read(int64_t row, std::span<float> values) const {
  assert(row >= 0 && row < rows() && static_cast<int64_t>(values.size()) == cols());
  if (!values_.empty()) return void(std::ranges::copy(values_.view().row_span(row), values.begin()));
  const size_t row_bytes = values.size() * get_info(tensor_->dtype).bytes;
  decode_floats(tensor_->dtype, std::get<FloatData>(tensor_->form).bytes().subspan(static_cast<size_t>(row) * row_bytes, row_bytes), values);
}

FloatData make_floats(const StoredTensor& tensor, ConstMatrixView logical) {
  std::vector<std::byte> bytes(static_cast<size_t>(logical.rows * logical.cols) * get_info(tensor.dtype).bytes);
  Matrix file_order;
  if (tensor.transposed) {
    file_order = Matrix(logical.cols, logical.rows);
    transpose(logical, file_order.view());
    logical = file_order.view();
  }
  const size_t row_bytes = static_cast<size_t>(logical.cols) * get_info(tensor.dtype).bytes;
  parallel_pieces(logical.rows, 64, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      encode_floats(tensor.dtype, logical.row_span(r), std::span(bytes).subspan(static_cast<size_t>(r) * row_bytes, row_bytes));
  });
  return FloatData(std::move(bytes));
}

namespace {

/// Whether rounding stays within the type's range. E4M3 has no infinity to round to: 448 is the largest, and 464 is half a step on.
bool fits(DType dtype, float value) { return std::isfinite(round_to(dtype, value)) && !(dtype == DType::f8_e4m3 && std::abs(value) > 464); }

}  // namespace

void round_floats(StoredTensor& tensor) {
  const auto* floats = find_floats(tensor);
  const Matrix* values = floats ? floats->find_unrounded() : nullptr;
  if (!values) return;
  for (float value : values->values())
    if (!fits(tensor.dtype, value)) throw Error(ErrorKind::input, fmt::format("tensor {}: became {}, which {} cannot hold", tensor.name, value, get_info(tensor.dtype).name));
  tensor.form = make_floats(tensor, values->view());
}

}  // namespace llmc
