#include "formats/packed_container.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "formats/codecs/packed_codecs.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr const char* format_key = "llmc.format";
constexpr const char* version_key = "llmc.version";
constexpr const char* tensors_key = "llmc.tensors";
constexpr const char* format_name = "llmc-packed";
constexpr std::string_view dense_name = "dense";

json describe(const PackedChoice& choice) {
  const StoredTensor& tensor = *choice.tensor;
  json row = {{"codec", choice.codec->name}, {"dtype", get_info(tensor.dtype).name}, {"shape", tensor.shape}};
  if (tensor.transposed) row["transposed"] = true;
  if (tensor.pruned) row["pruned"] = true;
  if (const Scheme* scheme = find_scheme(tensor)) row["scheme"] = to_string(*scheme);
  if (tensor.input_grid) row["input"] = {{"scale", tensor.input_grid->scale}, {"zero_point", tensor.input_grid->zero_point}};
  return row;
}

/// The grid of a static input, checked against its scheme.
std::optional<InputGrid> read_input_grid(FieldReader& fields, const std::optional<ActivationScheme>& scheme) {
  const json* object = fields.find("input");
  const bool is_expected = scheme && scheme->range == InputRange::calibrated;
  if (is_expected != (object != nullptr)) throw Error(ErrorKind::input, is_expected ? "field \"input\" is missing: the scheme rounds the input on a static grid" : "field \"input\" is there, but the scheme has no static input");
  if (!object) return std::nullopt;
  FieldReader input(*object, "input");
  const InputGrid grid = make_stored_grid(*scheme, input.find_number("scale").value_or(0), input.get_int("zero_point"));
  input.finish();
  return grid;
}

StoredTensor read_row(const std::string& name, const json& row, std::map<std::string, TensorView>& tensors) {
  FieldReader fields(row, "llmc.tensors");
  StoredTensor tensor{.name = name};
  const std::string dtype = fields.get_string("dtype");
  const std::string codec_name = fields.get_string("codec");
  const auto found_dtype = find_dtype(dtype);
  if (!found_dtype || !is_weight_float(*found_dtype)) throw Error(ErrorKind::input, fmt::format("dtype {} is not a float type that weights have", dtype));
  tensor.dtype = *found_dtype;
  const json* shape = fields.find("shape");
  if (!shape || !shape->is_array() || shape->empty()) throw Error(ErrorKind::input, "field \"shape\" is missing or not a list");
  for (const json& dimension : *shape) {
    if (!dimension.is_number_integer()) throw Error(ErrorKind::input, "field \"shape\" is not a list of integers");
    tensor.shape.push_back(dimension.get<int64_t>());
  }
  element_count(tensor.shape, "field \"shape\"");
  tensor.transposed = fields.find_bool("transposed").value_or(false);
  tensor.pruned = fields.find_bool("pruned").value_or(false);
  EncodedData data;
  data.codec = find_packed_codec(codec_name);
  if (!data.codec) throw Error(ErrorKind::input, fmt::format("codec {} is not known", codec_name));
  if (const auto scheme = fields.find_string("scheme")) data.scheme = parse_scheme(*scheme);
  else if (data.codec->holds_codes) throw Error(ErrorKind::input, "field \"scheme\" is missing");
  tensor.input_grid = read_input_grid(fields, data.codec->holds_codes ? data.scheme.input : std::nullopt);
  fields.finish();
  const std::string prefix = packed_part_name(name, *data.codec, "");
  if (data.codec->name == dense_name) {
    if (auto node = tensors.extract(name)) data.parts["values"] = std::move(node.mapped());
  } else {
    for (auto it = tensors.lower_bound(prefix); it != tensors.end() && it->first.starts_with(prefix);) {
      data.parts[it->first.substr(prefix.size())] = std::move(it->second);
      it = tensors.erase(it);
    }
  }
  tensor.form = std::move(data);
  return tensor;
}

}  // namespace

std::string packed_part_name(const std::string& tensor, const Codec& codec, const std::string& part) {
  return codec.name == dense_name ? tensor : tensor + ":" + part;
}

std::map<std::string, std::string> make_packed_metadata(const std::vector<PackedChoice>& choices) {
  json rows = json::object();
  for (const PackedChoice& choice : choices) rows[choice.tensor->name] = describe(choice);
  return {{format_key, format_name}, {version_key, std::to_string(packed_container_version)}, {tensors_key, rows.dump()}};
}

json make_packed_quantization_config() { return {{"llmc_format", format_name}, {"version", packed_container_version}}; }

std::vector<StoredTensor> group_packed_parts(const std::map<std::string, std::string>& metadata, std::map<std::string, TensorView>& tensors, const std::string& where) {
  const auto get = [&](const char* key) {
    const auto it = metadata.find(key);
    if (it == metadata.end()) throw Error(ErrorKind::input, fmt::format("{}: metadata {} is missing; this is not an llmc-packed file", where, key));
    return it->second;
  };
  if (get(format_key) != format_name) throw Error(ErrorKind::input, fmt::format("{}: metadata {}: expected {}, found {}", where, format_key, format_name, get(format_key)));
  if (get(version_key) != std::to_string(packed_container_version))
    throw Error(ErrorKind::input, fmt::format("{}: llmc-packed version {} was written by another llmc; this one reads version {}", where, get(version_key), packed_container_version));

  const json rows = parse_json(get(tensors_key), where + ": " + tensors_key);
  if (!rows.is_object()) throw Error(ErrorKind::input, fmt::format("{}: metadata {} is not an object", where, tensors_key));
  std::vector<StoredTensor> result;
  Problems problems;
  for (const auto& [name, row] : rows.items()) {
    try {
      result.push_back(read_row(name, row, tensors));
    } catch (const Error& problem) {
      problems.add(fmt::format("tensor {}: {}", name, problem.what()));
    }
  }
  for (const auto& [name, view] : tensors) problems.add(fmt::format("tensor {}: is part of no tensor that the metadata lists", name));
  problems.throw_if_any(ErrorKind::input, where);
  return result;
}

}  // namespace llmc
