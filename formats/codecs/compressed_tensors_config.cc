#include "formats/codecs/compressed_tensors_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "core/pattern.h"
#include "core/shown.h"
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

/// How closely a target names a module, the closest first, as compressed-tensors ranks them. The class of a module is not in its
/// file: what its name does not suggest is the last resort.
enum class Closeness { name, pattern, likely_class, other_class };

/// By the names that models give them.
bool is_embedding(std::string_view module) {
  const std::string_view name = module.substr(module.rfind('.') + 1);
  return (name.find("embed") != std::string_view::npos && name != "embed_out") || name == "wte" || name == "wpe";
}

/// "re:" and a pattern that matches from the start. A mistake in it is the file's.
class TargetPattern {
 public:
  TargetPattern(const std::string& text, const std::string& where) : text_(text), where_(where) {
    blame_file([&] { pattern_.emplace("^(?:" + text.substr(3) + ")"); });
  }

  const std::string& text() const { return text_; }

  bool matches(const std::string& module) const {
    bool result = false;
    blame_file([&] { result = pattern_->matches(module); });
    return result;
  }

 private:
  void blame_file(auto&& body) const {
    try {
      body();
    } catch (const Error& problem) {
      throw Error(ErrorKind::input, fmt::format("{}: \"{}\": {}", where_, shown(text_), shown(problem.what())));
    }
  }

  std::string text_;
  std::string where_;
  std::optional<Pattern> pattern_;
};

struct TargetMatch {
  Closeness closeness;
  std::string target;
};

/// What a group's "targets" or "ignore" lists: module names, patterns, and classes of modules.
class Targets {
 public:
  Targets(FieldReader& fields, const std::string& key) {
    for (const std::string& text : fields.find_strings(key)) {
      if (text.starts_with("re:")) patterns_.emplace_back(text, fields.where() + "." + key);
      else names_.insert(text);
    }
  }

  /// The closest target of the module.
  std::optional<TargetMatch> find_match(const std::string& module) const {
    if (names_.contains(module)) return TargetMatch{.closeness = Closeness::name, .target = module};
    for (const TargetPattern& pattern : patterns_)
      if (pattern.matches(module)) return TargetMatch{.closeness = Closeness::pattern, .target = pattern.text()};
    const char *likely = "Linear", *other = "Embedding";
    if (is_embedding(module)) std::swap(likely, other);
    if (names_.contains(likely)) return TargetMatch{.closeness = Closeness::likely_class, .target = likely};
    if (names_.contains(other)) return TargetMatch{.closeness = Closeness::other_class, .target = other};
    return std::nullopt;
  }

 private:
  std::set<std::string> names_;
  std::vector<TargetPattern> patterns_;
};

struct ConfigGroup {
  std::string name;
  ModuleEncoding encoding;
  Targets targets;
};

/// All of a quantization_config that says which module means what.
struct ConfigGroups {
  std::vector<ConfigGroup> groups;
  Targets ignored;
};

/// What else the object may say about the weights, and llmc does not read.
void check_other_configs(FieldReader& fields) {
  if (fields.find("kv_cache_scheme")) throw Error(ErrorKind::input, fmt::format("{}: a quantized key/value cache is not supported", fields.where()));
  if (const json* sparsity = fields.find("sparsity_config"); sparsity && !sparsity->empty()) {
    const std::string format = FieldReader(*sparsity, fields.where() + ".sparsity_config").find_string("format").value_or("");
    if (format != "dense") throw Error(ErrorKind::input, fmt::format("{}.sparsity_config: format '{}' is not supported; expected dense", fields.where(), shown(format)));
  }
  if (const json* transform = fields.find("transform_config"); transform && !transform->empty()) {
    const json* transforms = FieldReader(*transform, fields.where() + ".transform_config").find("config_groups");
    if (!transforms || !transforms->empty()) throw Error(ErrorKind::input, fmt::format("{}: transforms that run with the model (transform_config) are not supported", fields.where()));
  }
}

ConfigGroup read_group(const std::string& name, const json& group, const std::string& whole_format, const std::string& where) {
  FieldReader fields(group, where);
  if (fields.find("output_activations")) throw Error(ErrorKind::input, fmt::format("{}: output_activations are not supported", where));
  const json* weights = fields.find("weights");
  if (!weights) throw Error(ErrorKind::input, fmt::format("{}: field \"weights\" is missing", where));
  const std::string format = fields.find_string("format").value_or(whole_format);
  ModuleEncoding encoding{.scheme = read_weights(*weights, format, where + ".weights")};
  encoding.scheme.input = read_input(fields.find("input_activations"), where + ".input_activations");
  check_stated_scheme(encoding.scheme, format, where);
  encoding.codec = find_compressed_tensors_codec(plain_format(format, encoding.scheme));
  if (!encoding.codec) throw Error(ErrorKind::input, fmt::format("{}: format '{}' is not supported", where, shown(format)));
  if (!can_hold(*encoding.codec, encoding.scheme)) throw Error(ErrorKind::input, fmt::format("{}: weights: format '{}' does not store this combination of type, num_bits, strategy and group_size", where, format));
  return {.name = name, .encoding = encoding, .targets = Targets(fields, "targets")};
}

ConfigGroups read_groups(const json& object, const std::string& where) {
  FieldReader fields(object, where);
  const std::string whole_format = fields.find_string("format").value_or("");
  check_other_configs(fields);
  ConfigGroups result{.groups = {}, .ignored = Targets(fields, "ignore")};
  const json* groups = fields.find("config_groups");
  if (!groups || !groups->is_object()) throw Error(ErrorKind::input, fmt::format("{}: field \"config_groups\" is missing", where));
  for (const auto& [name, group] : groups->items()) result.groups.push_back(read_group(name, group, whole_format, where + ".config_groups." + shown(name)));
  return result;
}

bool is_ignored(const ConfigGroups& config, const std::string& module) {
  const auto match = config.ignored.find_match(module);
  return match && match->closeness != Closeness::other_class;
}

struct GroupMatch {
  const ConfigGroup* group;
  TargetMatch match;
};

/// The groups that target the module as closely as any does.
std::vector<GroupMatch> find_matches(const ConfigGroups& config, const std::string& module) {
  std::vector<GroupMatch> matches;
  for (const ConfigGroup& group : config.groups) {
    const auto match = group.targets.find_match(module);
    if (!match || (!matches.empty() && match->closeness > matches[0].match.closeness)) continue;
    if (!matches.empty() && match->closeness < matches[0].match.closeness) matches.clear();
    matches.push_back({.group = &group, .match = *match});
  }
  return matches;
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
  const ConfigGroups config = read_groups(object, where);
  std::map<std::string, ModuleEncoding> result;
  Problems problems;
  for (const std::string& module : modules) {
    if (is_ignored(config, module)) continue;
    const std::vector<GroupMatch> matches = find_matches(config, module);
    const auto differs = [&](const GroupMatch& other) { return !(other.group->encoding == matches[0].group->encoding); };
    if (const auto other = std::ranges::find_if(matches, differs); other != matches.end())
      problems.add(fmt::format("tensor {}.weight: config_groups {} (target \"{}\") and {} (target \"{}\") give it different schemes; expected one of them to name it more closely", module, shown(matches[0].group->name), shown(matches[0].match.target), shown(other->group->name), shown(other->match.target)));
    if (!matches.empty()) result[module] = matches[0].group->encoding;
  }
  problems.throw_if_any(ErrorKind::input, where);
  return result;
}

std::map<std::string, std::string> find_targeted(const json& object, const std::vector<std::string>& modules, const std::string& where) {
  const ConfigGroups config = read_groups(object, where);
  std::map<std::string, std::string> result;
  for (const std::string& module : modules) {
    if (is_ignored(config, module)) continue;
    const std::vector<GroupMatch> matches = find_matches(config, module);
    if (!matches.empty() && matches[0].match.closeness != Closeness::other_class) result[module] = matches[0].group->name;
  }
  return result;
}

}  // namespace llmc
