#include "formats/codecs/compressed_tensors_codecs.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/parallel.h"
#include "core/json.h"
#include "core/pattern.h"
#include "formats/bit_stream.h"
#include "formats/codecs/compressed_tensors_float_codecs.h"

namespace llmc {

using nlohmann::json;

namespace {

const QuantizedMatrix& codes_of(const StoredTensor& tensor) { return std::get<QuantizedMatrix>(tensor.form); }
bool is_plain_quantized(const StoredTensor& tensor) {
  return std::holds_alternative<QuantizedMatrix>(tensor.form) && codes_of(tensor).scheme.grid == GridKind::integer && codes_of(tensor).outliers.empty() && !tensor.transposed && tensor.shape.size() == 2;
}
bool is_int8(const StoredTensor& tensor) { return is_plain_quantized(tensor) && codes_of(tensor).scheme.bits == 8; }
bool is_below_8_bits(const StoredTensor& tensor) { return is_plain_quantized(tensor) && codes_of(tensor).scheme.bits < 8; }

/// [1] for a tensor, [rows, 1] for channels, [rows, groups] for groups.
Shape scale_shape(const QuantizedMatrix& matrix) {
  return matrix.scheme.granularity == Granularity::tensor ? Shape{1} : Shape{matrix.scale_rows(), matrix.scale_cols()};
}

int64_t words(int64_t count, int bits) { return (count * bits + 31) / 32; }

/// Each row becomes a bit stream of whole 32-bit words (little endian).
std::vector<std::byte> pack_rows(std::span<const int8_t> codes, int64_t rows, int64_t cols, int bits) {
  const auto row_bytes = static_cast<size_t>(4 * words(cols, bits));
  std::vector<std::byte> out(static_cast<size_t>(rows) * row_bytes);
  parallel_pieces(rows, 64, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) pack_codes(codes.subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols)), bits, std::span(out).subspan(static_cast<size_t>(r) * row_bytes, row_bytes));
  });
  return out;
}

void unpack_rows(std::span<const std::byte> packed, int64_t rows, int64_t cols, int bits, std::span<int8_t> codes) {
  const auto row_bytes = static_cast<size_t>(4 * words(cols, bits));
  for (int64_t r = 0; r < rows; ++r)
    unpack_codes(packed.subspan(static_cast<size_t>(r) * row_bytes, row_bytes), bits, codes.subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols)));
}

/// Rearranges [rows, cols] elements of `size` bytes to [cols, rows].
template <typename T>
std::vector<T> transposed(std::span<const T> in, int64_t rows, int64_t cols) {
  std::vector<T> out(in.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) out[static_cast<size_t>(c * rows + r)] = in[static_cast<size_t>(r * cols + c)];
  return out;
}

std::vector<std::byte> as_bytes(const auto& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

/// Scales of any of the three float types, checked against the scheme.
QuantizedMatrix read_scales(const StoredTensor& tensor, const EncodedData& data) {
  const DType dtype = find_scale_dtype(tensor, data, "weight_scale");
  QuantizedMatrix matrix = make_quantized_matrix(data.scheme, dtype, tensor.rows(), tensor.cols(), tensor.name);
  decode_scales(tensor, get_part(tensor, data, "weight_scale", dtype, scale_shape(matrix)), matrix);
  return matrix;
}

void read_plain_zero_points(const StoredTensor& tensor, const EncodedData& data, QuantizedMatrix& matrix) {
  const auto bytes = get_part(tensor, data, "weight_zero_point", DType::i8, scale_shape(matrix)).bytes;
  std::memcpy(matrix.zero_points.data(), bytes.data(), bytes.size());
}

// int-quantized: "weight" int8 [rows, cols], "weight_scale", and for linear "weight_zero_point" int8 like the scales.

std::vector<TensorLayout> int_layout(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = codes_of(tensor);
  std::vector<TensorLayout> layout = {{"weight", DType::i8, tensor.shape}, {"weight_scale", matrix.scale_dtype, scale_shape(matrix)}};
  if (!matrix.zero_points.empty()) layout.push_back({"weight_zero_point", DType::i8, scale_shape(matrix)});
  return layout;
}

std::vector<EncodedPart> encode_int(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = codes_of(tensor);
  const std::vector<TensorLayout> layout = int_layout(tensor);
  std::vector<EncodedPart> parts = {{layout[0], as_bytes(matrix.codes)}, {layout[1], encode_scales(matrix)}};
  if (layout.size() == 3) parts.push_back({layout[2], as_bytes(matrix.zero_points)});
  return parts;
}

std::variant<FloatData, QuantizedMatrix> decode_int(const StoredTensor& tensor, const EncodedData& data) {
  QuantizedMatrix matrix = read_scales(tensor, data);
  const auto codes = get_part(tensor, data, "weight", DType::i8, tensor.shape).bytes;
  std::memcpy(matrix.codes.data(), codes.data(), codes.size());
  if (!matrix.zero_points.empty()) read_plain_zero_points(tensor, data, matrix);
  return matrix;
}

// pack-quantized: "weight_packed" int32 [rows, words], "weight_scale", "weight_shape" int64 [2], and for linear
// "weight_zero_point": int32 [words over rows, groups] (packed along the rows), or int8 [1] when one scale serves the tensor.

bool packs_zero_points(const QuantizedMatrix& matrix) { return matrix.scheme.granularity != Granularity::tensor; }

std::vector<TensorLayout> pack_layout(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = codes_of(tensor);
  std::vector<TensorLayout> layout = {{"weight_packed", DType::i32, {matrix.rows, words(matrix.cols, matrix.scheme.bits)}},
                                      {"weight_scale", matrix.scale_dtype, scale_shape(matrix)},
                                      {"weight_shape", DType::i64, {2}}};
  if (matrix.zero_points.empty()) return layout;
  if (packs_zero_points(matrix))
    layout.push_back({"weight_zero_point", DType::i32, {words(matrix.scale_rows(), matrix.scheme.bits), matrix.scale_cols()}});
  else
    layout.push_back({"weight_zero_point", DType::i8, scale_shape(matrix)});
  return layout;
}

std::vector<EncodedPart> encode_pack(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = codes_of(tensor);
  const int bits = matrix.scheme.bits;
  const std::vector<TensorLayout> layout = pack_layout(tensor);
  std::vector<EncodedPart> parts = {{layout[0], pack_rows(matrix.codes, matrix.rows, matrix.cols, bits)},
                                    {layout[1], encode_scales(matrix)},
                                    {layout[2], as_bytes(tensor.shape)}};
  if (layout.size() < 4) return parts;
  if (!packs_zero_points(matrix)) {
    parts.push_back({layout[3], as_bytes(matrix.zero_points)});
    return parts;
  }
  const std::vector<int8_t> by_column = transposed<int8_t>(matrix.zero_points, matrix.scale_rows(), matrix.scale_cols());
  const std::vector<std::byte> packed = pack_rows(by_column, matrix.scale_cols(), matrix.scale_rows(), bits);
  std::vector<uint32_t> column_words(packed.size() / 4);
  std::memcpy(column_words.data(), packed.data(), packed.size());
  parts.push_back({layout[3], as_bytes(transposed<uint32_t>(column_words, matrix.scale_cols(), words(matrix.scale_rows(), bits)))});
  return parts;
}

std::variant<FloatData, QuantizedMatrix> decode_pack(const StoredTensor& tensor, const EncodedData& data) {
  QuantizedMatrix matrix = read_scales(tensor, data);
  const int bits = matrix.scheme.bits;
  const auto shape_bytes = get_part(tensor, data, "weight_shape", DType::i64, {2}).bytes;
  Shape shape(2);
  std::memcpy(shape.data(), shape_bytes.data(), shape_bytes.size());
  if (shape != tensor.shape) throw Error(ErrorKind::input, fmt::format("tensor {}: weight_shape: expected {}, found {}", tensor.name, to_string(tensor.shape), to_string(shape)));
  unpack_rows(get_part(tensor, data, "weight_packed", DType::i32, {matrix.rows, words(matrix.cols, bits)}).bytes, matrix.rows, matrix.cols, bits, matrix.codes);
  if (matrix.zero_points.empty()) return matrix;
  if (!packs_zero_points(matrix)) {
    read_plain_zero_points(tensor, data, matrix);
    return matrix;
  }
  const int64_t column_words = words(matrix.scale_rows(), bits);
  const auto packed = get_part(tensor, data, "weight_zero_point", DType::i32, {column_words, matrix.scale_cols()}).bytes;
  std::vector<uint32_t> by_row(packed.size() / 4);
  std::memcpy(by_row.data(), packed.data(), packed.size());
  const std::vector<uint32_t> by_column = transposed<uint32_t>(by_row, column_words, matrix.scale_cols());
  std::vector<int8_t> zero_points(matrix.zero_points.size());
  unpack_rows(std::as_bytes(std::span(by_column)), matrix.scale_cols(), matrix.scale_rows(), bits, zero_points);
  matrix.zero_points = transposed<int8_t>(zero_points, matrix.scale_cols(), matrix.scale_rows());
  return matrix;
}

constexpr const char* input_scale = "input_scale";
constexpr const char* input_zero_point = "input_zero_point";

constexpr std::array integer_rows = {
    Codec{.name = "int-quantized", .summary = "compressed-tensors, one int8 per weight", .holds_codes = true, .fits = is_int8, .layout = int_layout, .encode = encode_int, .decode = decode_int},
    Codec{.name = "pack-quantized", .summary = "compressed-tensors, codes below 8 bits in int32 words", .holds_codes = true, .fits = is_below_8_bits, .layout = pack_layout, .encode = encode_pack, .decode = decode_pack},
};

/// One list of integer and float codecs.
const std::vector<Codec>& rows() {
  static const std::vector<Codec> all = [] {
    std::vector<Codec> codecs(integer_rows.begin(), integer_rows.end());
    const auto floats = compressed_tensors_float_codecs();
    codecs.insert(codecs.end(), floats.begin(), floats.end());
    return codecs;
  }();
  return all;
}

json describe_weights(const Scheme& scheme) {
  json weights = {{"num_bits", scheme.bits},
                  {"type", "int"},
                  {"symmetric", scheme.mapping == Mapping::symmetric},
                  {"strategy", to_string(scheme.granularity)},
                  {"group_size", nullptr},
                  {"dynamic", false},
                  {"observer", "minmax"}};
  if (scheme.granularity == Granularity::group) weights["group_size"] = scheme.group_size;
  if (scheme.grid == GridKind::integer) return weights;
  weights["type"] = "float";
  if (scheme.scale == ScaleKind::power_of_two) weights["scale_dtype"] = "torch.uint8";
  if (scheme.scale == ScaleKind::e4m3) weights["strategy"] = "tensor_group", weights["scale_dtype"] = "torch.float8_e4m3fn";
  return weights;
}

json describe_input(const std::optional<ActivationScheme>& scheme) {
  if (!scheme) return nullptr;
  const bool is_dynamic = scheme->range == InputRange::per_token;
  return {{"num_bits", scheme->bits},
          {"type", scheme->is_float ? "float" : "int"},
          {"symmetric", scheme->mapping == Mapping::symmetric},
          {"strategy", is_dynamic ? "token" : "tensor"},
          {"group_size", nullptr},
          {"dynamic", is_dynamic},
          {"observer", is_dynamic ? json() : json("minmax")}};
}

std::string_view format_for(const Scheme& scheme) {
  if (scheme.grid != GridKind::integer) {
    const Codec* codec = find_compressed_tensors_float_codec(scheme);
    return codec ? codec->name : "";
  }
  return integer_rows[scheme.bits == 8 ? 0 : 1].name;
}

/// type float: E4M3 in 8 bits, E2M1 in 4; with the scales that the format of that name has.
void read_float_type(const std::string& strategy, const std::string& format, Scheme& scheme, const std::string& where) {
  if (scheme.bits != 8 && scheme.bits != 4) throw Error(ErrorKind::input, fmt::format("{}: num_bits: floats have 8 or 4, found {}", where, scheme.bits));
  scheme.grid = scheme.bits == 8 ? GridKind::fp8_e4m3 : GridKind::fp4_e2m1;
  scheme.scale = format.starts_with("mxfp") ? ScaleKind::power_of_two : strategy == "tensor_group" ? ScaleKind::e4m3 : ScaleKind::floating;
}

/// The order in which GPTQ went through the columns. "weight", alias "static", left groups and codes where they are; "group",
/// alias "dynamic" or true, numbered the groups of columns anew in weight_g_idx, which no release since 0.19 reads either.
void check_column_order(const json* order, const std::string& where) {
  if (!order || *order == "weight" || *order == "static" || *order == false) return;
  throw Error(ErrorKind::input, fmt::format("{}: actorder {} is not supported: its groups are no neighbours (weight_g_idx); expected weight, static or null", where, order->dump()));
}

/// check_scheme of what a file says: so a mistake is the file's.
void check_stated_scheme(const Scheme& scheme, const std::string& format, const std::string& where) {
  try {
    check_scheme(scheme);
  } catch (const Error& problem) {
    throw Error(ErrorKind::input, fmt::format("{}: format '{}': type, num_bits, strategy and group_size do not go together: {}", where, format, problem.what()));
  }
}

Scheme read_weights(const json& object, const std::string& format, const std::string& where) {
  FieldReader fields(object, where);
  Scheme scheme;
  const int64_t bits = fields.get_int("num_bits");
  scheme.mapping = fields.find_bool("symmetric").value_or(true) ? Mapping::symmetric : Mapping::linear;
  const std::string type = fields.find_string("type").value_or("int");
  const std::string strategy = fields.find_string("strategy").value_or("tensor");
  const int64_t group_size = fields.find_int("group_size").value_or(0);
  const auto refuse = [&](const char* key, const std::string& value) { return Error(ErrorKind::input, fmt::format("{}: {} '{}' is not supported", where, key, value)); };
  if (type != "int" && type != "float") throw refuse("type", type);
  if (bits < 2 || bits > 8) throw Error(ErrorKind::input, fmt::format("{}: num_bits: expected 2 to 8, found {}", where, bits));
  scheme.bits = static_cast<int>(bits);
  if (strategy == "tensor") scheme.granularity = Granularity::tensor;
  else if (strategy == "channel") scheme.granularity = Granularity::channel;
  else if (strategy == "group" || (strategy == "tensor_group" && type == "float")) scheme.granularity = Granularity::group, scheme.group_size = group_size;
  else throw refuse("strategy", strategy);
  if (type == "float") read_float_type(strategy, format, scheme, where);
  if (scheme.granularity == Granularity::group && group_size < 1) throw Error(ErrorKind::input, fmt::format("{}: group_size: expected a positive number, found {}", where, group_size));
  check_column_order(fields.find("actorder"), where);
  if (const json* dynamic = fields.find("dynamic"); dynamic && *dynamic != json(false)) throw refuse("dynamic", dynamic->dump());
  check_stated_scheme(scheme, format, where);
  return scheme;
}

std::optional<ActivationScheme> read_input(const json* object, const std::string& where) {
  if (!object) return std::nullopt;
  FieldReader fields(*object, where);
  const auto refuse = [&](const char* key, const std::string& value) { return Error(ErrorKind::input, fmt::format("{}: {} '{}' is not supported", where, key, value)); };
  ActivationScheme scheme;
  const int64_t bits = fields.get_int("num_bits");
  if (bits != 4 && bits != 8) throw Error(ErrorKind::input, fmt::format("{}: num_bits: expected 4 or 8, found {}", where, bits));
  scheme.bits = static_cast<int>(bits);
  scheme.mapping = fields.find_bool("symmetric").value_or(true) ? Mapping::symmetric : Mapping::linear;
  const std::string type = fields.find_string("type").value_or("int"), strategy = fields.find_string("strategy").value_or("tensor");
  if (type != "int" && type != "float") throw refuse("type", type);
  scheme.is_float = type == "float";
  if (scheme.is_float && (bits != 8 || scheme.mapping != Mapping::symmetric)) throw Error(ErrorKind::input, fmt::format("{}: type 'float': expected num_bits 8 and symmetric, found {} and {}", where, bits, to_string(scheme.mapping)));
  const json* dynamic = fields.find("dynamic");
  if (dynamic && !dynamic->is_boolean()) throw refuse("dynamic", dynamic->dump());
  const bool is_dynamic = dynamic && dynamic->get<bool>();
  if (strategy != (is_dynamic ? "token" : "tensor")) throw refuse(is_dynamic ? "dynamic strategy" : "static strategy", strategy);
  scheme.range = is_dynamic ? InputRange::per_token : InputRange::calibrated;
  return scheme;
}

/// An integer format stores any number of bits; a float format its own scheme only.
bool can_hold(const Codec& codec, const Scheme& scheme) {
  const bool is_integer_codec = std::ranges::find(integer_rows, codec.name, &Codec::name) != integer_rows.end();
  return scheme.grid == GridKind::integer ? is_integer_codec : codec.name == format_for(scheme);
}

/// The format whose layout is used: naive-quantized is another name for either of two.
std::string_view plain_format(std::string_view format, const Scheme& scheme) {
  if (format != "naive-quantized") return format;
  return scheme.grid == GridKind::integer ? "int-quantized" : "float-quantized";
}

/// A target is a module name, "re:" and a pattern that matches from the start, or a module class.
bool targets(const std::string& target, const std::string& module) {
  if (target.starts_with("re:")) return Pattern("^(?:" + target.substr(3) + ")").matches(module);
  return target == module;
}

}  // namespace

std::span<const Codec> compressed_tensors_codecs() { return rows(); }

const Codec* find_compressed_tensors_codec(std::string_view name) {
  for (const Codec& codec : rows())
    if (codec.name == name) return &codec;
  return nullptr;
}

const Codec& get_compressed_tensors_codec(const QuantizedMatrix& matrix) {
  const Codec* codec = find_compressed_tensors_codec(format_for(matrix.scheme));
  if (!codec) throw Error(ErrorKind::bug, fmt::format("compressed-tensors has no format for {}", to_string(matrix.scheme)));
  return *codec;
}

bool has_compressed_tensors_format(const Scheme& scheme) { return scheme.grid == GridKind::integer || find_compressed_tensors_float_codec(scheme); }

std::vector<EncodedPart> encode_input_grid(const StoredTensor& tensor) {
  if (!tensor.input_grid) return {};
  const QuantizedMatrix& matrix = codes_of(tensor);
  std::vector<std::byte> scale(get_info(matrix.scale_dtype).bytes);
  encode_floats(matrix.scale_dtype, {&tensor.input_grid->scale, 1}, scale);
  std::vector<EncodedPart> parts = {{{input_scale, matrix.scale_dtype, {1}}, std::move(scale)}};
  if (matrix.scheme.input->mapping == Mapping::linear) parts.push_back({{input_zero_point, DType::i8, {1}}, {static_cast<std::byte>(tensor.input_grid->zero_point)}});
  return parts;
}

void decode_input_grid(StoredTensor& tensor, std::map<std::string, TensorView>& parts) {
  EncodedData data{.codec = nullptr, .scheme = std::get<EncodedData>(tensor.form).scheme, .parts = {}};
  for (const char* part : {input_scale, input_zero_point})
    if (auto node = parts.extract(part)) data.parts.insert(std::move(node));
  const auto& scheme = data.scheme.input;
  const bool is_static = scheme && scheme->range == InputRange::calibrated;
  const bool has_zero_point = data.parts.contains(input_zero_point);
  if (!is_static) {
    if (!data.parts.empty()) throw Error(ErrorKind::input, fmt::format("tensor {}: part {} is there, but its scheme has no static input", tensor.name, data.parts.begin()->first));
    return;
  }
  const auto part = data.parts.find(input_scale);
  const DType dtype = part == data.parts.end() || !is_scale_float(part->second.dtype) ? DType::f32 : part->second.dtype;
  float scale = 0;
  decode_floats(dtype, get_part(tensor, data, input_scale, dtype, {1}).bytes, {&scale, 1});
  int zero_point = 0;
  if (scheme->mapping == Mapping::linear || has_zero_point) zero_point = static_cast<int8_t>(get_part(tensor, data, input_zero_point, DType::i8, {1}).bytes[0]);
  try {
    tensor.input_grid = make_stored_grid(*scheme, scale, zero_point);
  } catch (const Error& problem) {
    throw Error(ErrorKind::input, fmt::format("tensor {}: {}", tensor.name, problem.what()));
  }
}

json make_quantization_config(const std::vector<ModuleScheme>& quantized, const std::vector<std::string>& ignored) {
  std::vector<Scheme> schemes;  // in order of first use
  for (const ModuleScheme& module : quantized)
    if (std::ranges::find(schemes, module.scheme) == schemes.end()) schemes.push_back(module.scheme);

  const bool plain = schemes.size() == 1 && std::ranges::all_of(quantized, [](const ModuleScheme& m) { return m.kind == ModuleKind::linear; });
  json groups = json::object();
  for (size_t i = 0; i < schemes.size(); ++i) {
    json modules = json::array();
    for (const ModuleScheme& module : quantized)
      if (module.scheme == schemes[i]) modules.push_back(module.module);
    if (plain) modules = json::array({"Linear"});
    groups[fmt::format("group_{}", i)] = {{"targets", modules}, {"weights", describe_weights(schemes[i])}, {"input_activations", describe_input(schemes[i].input)}, {"output_activations", nullptr}, {"format", format_for(schemes[i])}};
  }
  bool one_format = true;
  for (const Scheme& scheme : schemes) one_format &= format_for(scheme) == format_for(schemes[0]);
  return {{"quant_method", "compressed-tensors"},
          {"format", one_format ? format_for(schemes[0]) : "mixed-precision"},
          {"quantization_status", "compressed"},
          {"config_groups", groups},
          {"ignore", ignored},
          {"kv_cache_scheme", nullptr},
          {"global_compression_ratio", nullptr}};
}

std::map<std::string, ModuleEncoding> read_quantization_config(const json& object, const std::vector<std::string>& modules, const std::string& where) {
  FieldReader fields(object, where);
  const std::string whole_format = fields.find_string("format").value_or("");
  if (fields.find("kv_cache_scheme")) throw Error(ErrorKind::input, fmt::format("{}: a quantized key/value cache is not supported", where));
  const std::vector<std::string> ignored = fields.find_strings("ignore");
  const json* groups = fields.find("config_groups");
  if (!groups || !groups->is_object()) throw Error(ErrorKind::input, fmt::format("{}: field \"config_groups\" is missing", where));

  std::map<std::string, ModuleEncoding> result;
  for (const auto& [name, group] : groups->items()) {
    const std::string group_where = where + ".config_groups." + name;
    FieldReader group_fields(group, group_where);
    if (group_fields.find("output_activations")) throw Error(ErrorKind::input, fmt::format("{}: output_activations are not supported", group_where));
    const json* weights = group_fields.find("weights");
    if (!weights) throw Error(ErrorKind::input, fmt::format("{}: field \"weights\" is missing", group_where));
    const std::string format = group_fields.find_string("format").value_or(whole_format);
    ModuleEncoding encoding{.scheme = read_weights(*weights, format, group_where + ".weights")};
    encoding.scheme.input = read_input(group_fields.find("input_activations"), group_where + ".input_activations");
    check_stated_scheme(encoding.scheme, format, group_where);
    encoding.codec = find_compressed_tensors_codec(plain_format(format, encoding.scheme));
    if (!encoding.codec) throw Error(ErrorKind::input, fmt::format("{}: format '{}' is not supported", group_where, format));
    if (!can_hold(*encoding.codec, encoding.scheme)) throw Error(ErrorKind::input, fmt::format("{}: weights: format '{}' does not store this combination of type, num_bits, strategy and group_size", group_where, format));
    for (const std::string& target : group_fields.find_strings("targets"))
      for (const std::string& module : modules) {
        const auto is_ignored = [&](const std::string& pattern) { return targets(pattern, module); };
        if (std::ranges::any_of(ignored, is_ignored)) continue;
        if (target == "Linear" || target == "Embedding" ? !result.contains(module) : targets(target, module)) result[module] = encoding;
      }
  }
  return result;
}

}  // namespace llmc
