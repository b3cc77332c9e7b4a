#include "formats/codecs/sparse_codecs.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "formats/bit_stream.h"
#include "formats/codecs/code_parts.h"
#include "formats/codecs/positions.h"

namespace llmc {
namespace {

bool can_be_counted(int64_t count) { return count < int64_t{1} << 32; }

/// Positions of stored elements, checked against what a reader would allocate for them.
template <const PositionCode& code>
std::vector<uint32_t> read_positions(const StoredTensor& tensor, const EncodedData& data, int64_t most) {
  if (!can_be_counted(tensor.count())) throw Error(ErrorKind::input, fmt::format("tensor {}: codec {} holds less than 2^32 elements, found {}", tensor.name, data.codec->name, tensor.count()));
  std::vector<uint32_t> positions = code.decode(tensor, data, {.rows = tensor.rows(), .cols = tensor.cols(), .most = most});
  const auto stored = static_cast<int64_t>(positions.size());
  if (tensor.count() > most_elements_per_stored * stored && &code != &bitmask_positions) throw Error(ErrorKind::input, fmt::format("tensor {}: codec {} stores one of at most {} elements, found {} of {}", tensor.name, data.codec->name, most_elements_per_stored, stored, tensor.count()));
  return positions;
}

bool is_worth(const KeptElements& kept, const PositionCode& code) { return &code == &bitmask_positions || kept.count() <= most_elements_per_stored * kept.number(); }

// Over floats: "values", those whose bits are not all zero, and what a way stores beside them.

/// Where an element of the logical matrix lies in the file.
int64_t file_index(const StoredTensor& tensor, int64_t i) { return tensor.transposed ? i % tensor.cols() * tensor.rows() + i / tensor.cols() : i; }

KeptElements nonzero_floats(const StoredTensor& tensor) {
  const size_t size = get_info(tensor.dtype).bytes;
  KeptElements kept{.rows = tensor.rows(), .cols = tensor.cols(), .value_bits = static_cast<int>(8 * size), .kept = mark_nonzero(find_floats(tensor)->bytes(), size)};
  if (!tensor.transposed) return kept;
  const std::vector<uint8_t> as_stored = std::exchange(kept.kept, std::vector<uint8_t>(kept.kept.size()));
  for (int64_t i = 0; i < kept.count(); ++i) kept.kept[static_cast<size_t>(i)] = as_stored[static_cast<size_t>(file_index(tensor, i))];
  return kept;
}

template <const PositionCode& code>
bool fits_floats(const StoredTensor& tensor) {
  return find_floats(tensor) && tensor.pruned && can_be_counted(tensor.count()) && is_worth(nonzero_floats(tensor), code);
}

template <const PositionCode& code>
std::vector<EncodedPart> encode_floats_at(const StoredTensor& tensor) {
  StoredPositions stored = code.encode(nonzero_floats(tensor));
  const size_t size = get_info(tensor.dtype).bytes;
  const auto bytes = find_floats(tensor)->bytes();
  std::vector<std::byte> values(stored.order.size() * size);
  for (size_t i = 0; i < stored.order.size(); ++i) std::memcpy(values.data() + i * size, bytes.data() + static_cast<size_t>(file_index(tensor, stored.order[i])) * size, size);
  stored.parts.push_back({{"values", tensor.dtype, {static_cast<int64_t>(stored.order.size())}}, std::move(values)});
  return std::move(stored.parts);
}

template <const PositionCode& code>
std::variant<FloatData, QuantizedMatrix> decode_floats_at(const StoredTensor& tensor, const EncodedData& data) {
  const size_t size = get_info(tensor.dtype).bytes;
  const auto part = data.parts.find("values");
  const std::vector<uint32_t> positions = read_positions<code>(tensor, data, part == data.parts.end() ? 0 : static_cast<int64_t>(part->second.bytes.size() / size));
  const auto values = get_part(tensor, data, "values", tensor.dtype, {static_cast<int64_t>(positions.size())}).bytes;
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.count()) * size);
  for (size_t i = 0; i < positions.size(); ++i) std::memcpy(bytes.data() + static_cast<size_t>(file_index(tensor, positions[i])) * size, values.data() + i * size, size);
  return FloatData(std::move(bytes));
}

// Over codes: "codes" of the elements that do not mean 0, and what they mean.

KeptElements nonzero_codes(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = *find_codes(tensor);
  return {.rows = matrix.rows, .cols = matrix.cols, .value_bits = matrix.scheme.bits, .kept = mark_nonzero_codes(matrix)};
}

template <const PositionCode& code>
bool fits_codes(const StoredTensor& tensor) {
  return find_codes(tensor) && tensor.pruned && find_codes(tensor)->has_zero() && can_be_counted(tensor.count()) && is_worth(nonzero_codes(tensor), code);
}

template <const PositionCode& code>
std::vector<EncodedPart> encode_codes_at(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = *find_codes(tensor);
  StoredPositions stored = code.encode(nonzero_codes(tensor));
  std::vector<int8_t> codes(stored.order.size());
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = matrix.codes[stored.order[i]];
  std::vector<std::byte> packed(static_cast<size_t>(packed_bytes(static_cast<int64_t>(codes.size()), matrix.scheme.bits)));
  pack_codes(codes, matrix.scheme.bits, packed);
  stored.parts.push_back({{"codes", DType::u8, {static_cast<int64_t>(packed.size())}}, std::move(packed)});
  add_short_scale_parts(matrix, stored.parts);
  if (!matrix.outliers.empty()) add_outlier_parts(matrix.outliers, stored.parts);
  return std::move(stored.parts);
}

template <const PositionCode& code>
std::variant<FloatData, QuantizedMatrix> decode_codes_at(const StoredTensor& tensor, const EncodedData& data) {
  const auto part = data.parts.find("codes");
  const std::vector<uint32_t> positions = read_positions<code>(tensor, data, part == data.parts.end() ? 0 : static_cast<int64_t>(part->second.bytes.size()) * 8 / data.scheme.bits);
  std::vector<int8_t> codes(positions.size());
  unpack_codes(get_part(tensor, data, "codes", DType::u8, {packed_bytes(static_cast<int64_t>(codes.size()), data.scheme.bits)}).bytes, data.scheme.bits, codes);
  QuantizedMatrix matrix = read_scales(tensor, data);
  if (!matrix.has_zero()) throw Error(ErrorKind::input, fmt::format("tensor {}: part centroids: a row has no 0, which elements that are not stored need", tensor.name));
  const std::vector<int8_t> zeros = zero_codes(matrix);
  for (int64_t r = 0; r < matrix.rows; ++r)
    for (int64_t c = 0; c < matrix.cols; ++c) matrix.codes[static_cast<size_t>(r * matrix.cols + c)] = zeros[static_cast<size_t>(matrix.scale_index(r, c))];
  for (size_t i = 0; i < positions.size(); ++i) matrix.codes[positions[i]] = codes[i];
  check_codes(tensor, matrix);
  if (data.parts.contains("outlier_values") || data.parts.contains("outlier_gaps")) matrix.outliers = read_outliers(tensor, data);
  return matrix;
}

template <auto encode>
std::vector<TensorLayout> layout_of(const StoredTensor& tensor) {
  std::vector<TensorLayout> layout;
  for (EncodedPart& part : encode(tensor)) layout.push_back(std::move(part.layout));
  return layout;
}

template <const PositionCode& code>
constexpr Codec over_floats(std::string_view name, std::string_view summary) {
  return {.name = name, .summary = summary, .fits = fits_floats<code>, .layout = layout_of<encode_floats_at<code>>, .encode = encode_floats_at<code>, .decode = decode_floats_at<code>};
}
template <const PositionCode& code>
constexpr Codec over_codes(std::string_view name, std::string_view summary) {
  return {.name = name, .summary = summary, .holds_codes = true, .fits = fits_codes<code>, .layout = layout_of<encode_codes_at<code>>, .encode = encode_codes_at<code>, .decode = decode_codes_at<code>};
}

constexpr std::array sparse_rows = {
    over_floats<gap_positions>("gaps", "Rice-coded distances, and the floats that are not zero"),
    over_floats<coordinate_positions>("coo", "distances of 8 or 16 bits, and the floats that are not zero"),
    over_floats<row_positions>("csr", "a count per row, distances of 8 or 16 bits, and the floats that are not zero"),
    over_floats<n_of_m_positions>("n-of-m", "which N of every M neighbours are stored, and these floats"),
    over_floats<block_positions>("blocks", "a bit per block, and the floats of blocks that are not zero"),
    over_codes<bitmask_positions>("bitmask+packed-codes", "bitmask+packed-int with scales in few bits, and outliers"),
    over_codes<gap_positions>("gaps+packed-codes", "gaps over codes, scales in few bits, and outliers"),
    over_codes<coordinate_positions>("coo+packed-codes", "coo over codes, scales in few bits, and outliers"),
    over_codes<row_positions>("csr+packed-codes", "csr over codes, scales in few bits, and outliers"),
    over_codes<n_of_m_positions>("n-of-m+packed-codes", "n-of-m over codes, scales in few bits, and outliers"),
    over_codes<block_positions>("blocks+packed-codes", "blocks over codes, scales in few bits, and outliers"),
};

}  // namespace

std::span<const Codec> sparse_codecs() { return sparse_rows; }

}  // namespace llmc
