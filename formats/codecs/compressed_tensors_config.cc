#include "formats/codecs/compressed_tensors_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "core/json.h"
#include "core/pattern.h"
#include "formats/codecs/compressed_tensors_codecs.h"
#include "formats/codecs/compressed_tensors_float_codecs.h"

namespace llmc {

using nlohmann::json;

namespace {

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
  const Codec* codec = find_compressed_tensors_codec(scheme);
  return codec ? codec->name : "";
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
  const auto floats = compressed_tensors_float_codecs();
  return scheme.grid == GridKind::integer ? std::ranges::find(floats, codec.name, &Codec::name) == floats.end() : codec.name == format_for(scheme);
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
