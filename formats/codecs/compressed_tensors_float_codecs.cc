#include "formats/codecs/compressed_tensors_float_codecs.h"

#include <array>

#include "core/error.h"
#include "formats/codecs/code_parts.h"

namespace llmc {
namespace {

/// The bits of a float: the sign above the magnitude.
uint8_t to_bits(int code, int sign) { return static_cast<uint8_t>(code < 0 ? sign | -code : code); }

/// A −0, which other writers may store, becomes the code 0: the same weight.
int8_t from_bits(int bits, int sign) { return static_cast<int8_t>(bits & sign ? -(bits & (sign - 1)) : bits); }

/// 8 bits: "weight" F8_E4M3 [rows, cols].  4 bits: "weight_packed" U8 [rows, cols / 2], the first of two in the low half.
/// Both: "weight_scale", in floats, as E8M0 in U8, or as F8_E4M3 beside "weight_global_scale" F32 [1], which divides it.
TensorLayout weight_layout(const Scheme& scheme, int64_t rows, int64_t cols) {
  if (scheme.bits == 8) return {"weight", DType::f8_e4m3, {rows, cols}};
  return {"weight_packed", DType::u8, {rows, cols / 2}};
}

std::vector<TensorLayout> layout_floats(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = std::get<QuantizedMatrix>(tensor.form);
  std::vector<TensorLayout> layout = {weight_layout(matrix.scheme, matrix.rows, matrix.cols), {"weight_scale", stored_scale_dtype(matrix.scale_dtype), compressed_tensors_scale_shape(matrix)}};
  if (has_global_scale(matrix.scheme)) layout.push_back({"weight_global_scale", DType::f32, {1}});
  return layout;
}

std::vector<EncodedPart> encode_float_codes(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = std::get<QuantizedMatrix>(tensor.form);
  const std::vector<TensorLayout> layout = layout_floats(tensor);
  std::vector<std::byte> weight(static_cast<size_t>(layout[0].bytes()));
  for (size_t i = 0; i < weight.size(); ++i)
    weight[i] = static_cast<std::byte>(matrix.scheme.bits == 8 ? to_bits(matrix.codes[i], 0x80) : to_bits(matrix.codes[2 * i], 8) | to_bits(matrix.codes[2 * i + 1], 8) << 4);
  std::vector<EncodedPart> parts = {{layout[0], std::move(weight)}, {layout[1], encode_scales(matrix)}};
  if (has_global_scale(matrix.scheme)) parts.push_back({layout[2], encode_global_scale(matrix)});
  return parts;
}

std::variant<FloatData, QuantizedMatrix> decode_float_codes(const StoredTensor& tensor, const EncodedData& data) {
  const TensorLayout layout = weight_layout(data.scheme, tensor.rows(), tensor.cols());
  const auto weight = get_part(tensor, data, layout.name, layout.dtype, layout.shape).bytes;  // first: bounds what is allocated
  QuantizedMatrix matrix = make_quantized_matrix(data.scheme, find_scale_dtype(tensor, data, "weight_scale"), tensor.rows(), tensor.cols(), tensor.name);
  decode_scales(tensor, get_part(tensor, data, "weight_scale", stored_scale_dtype(matrix.scale_dtype), compressed_tensors_scale_shape(matrix)), matrix);
  if (has_global_scale(data.scheme)) decode_global_scale(tensor, get_part(tensor, data, "weight_global_scale", DType::f32, {1}), matrix);
  for (size_t i = 0; i < weight.size(); ++i) {
    const int bits = static_cast<int>(weight[i]);
    if (data.scheme.bits == 8) matrix.codes[i] = from_bits(bits, 0x80);
    else matrix.codes[2 * i] = from_bits(bits & 15, 8), matrix.codes[2 * i + 1] = from_bits(bits >> 4, 8);
  }
  check_codes(tensor, matrix);  // E4M3 has NaNs
  return matrix;
}

template <GridKind grid, ScaleKind scale>
bool fits(const StoredTensor& tensor) {
  const auto* matrix = find_codes(tensor);
  return matrix && matrix->scheme.grid == grid && matrix->scheme.scale == scale && matrix->outliers.empty() && !tensor.transposed && tensor.shape.size() == 2;
}

constexpr std::array float_rows = {
    Codec{.name = "float-quantized", .summary = "compressed-tensors, one E4M3 per weight", .holds_codes = true, .fits = fits<GridKind::fp8_e4m3, ScaleKind::floating>, .layout = layout_floats, .encode = encode_float_codes, .decode = decode_float_codes},
    Codec{.name = "mxfp8-quantized", .summary = "compressed-tensors, one E4M3 per weight, power-of-two scales", .holds_codes = true, .fits = fits<GridKind::fp8_e4m3, ScaleKind::power_of_two>, .layout = layout_floats, .encode = encode_float_codes, .decode = decode_float_codes},
    Codec{.name = "mxfp4-pack-quantized", .summary = "compressed-tensors, two E2M1 per byte, power-of-two scales", .holds_codes = true, .fits = fits<GridKind::fp4_e2m1, ScaleKind::power_of_two>, .layout = layout_floats, .encode = encode_float_codes, .decode = decode_float_codes},
    Codec{.name = "nvfp4-pack-quantized", .summary = "compressed-tensors, two E2M1 per byte, E4M3 scales and one of the tensor", .holds_codes = true, .fits = fits<GridKind::fp4_e2m1, ScaleKind::e4m3>, .layout = layout_floats, .encode = encode_float_codes, .decode = decode_float_codes},
};

}  // namespace

Shape compressed_tensors_scale_shape(const QuantizedMatrix& matrix) { return matrix.scheme.granularity == Granularity::tensor ? Shape{1} : Shape{matrix.scale_rows(), matrix.scale_cols()}; }

std::span<const Codec> compressed_tensors_float_codecs() { return float_rows; }

const Codec* find_compressed_tensors_float_codec(const Scheme& scheme) {
  const StoredTensor probe{.shape = {0, 0}, .form = QuantizedMatrix{.scheme = scheme}};
  for (const Codec& codec : float_rows)
    if (codec.fits(probe)) return &codec;
  return nullptr;
}

}  // namespace llmc
