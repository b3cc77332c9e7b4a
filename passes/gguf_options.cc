#include "passes/gguf_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/pattern.h"

namespace llmc {

using nlohmann::json;

namespace {

std::optional<GgufType> find_type(const std::string& name) { return name.empty() ? std::nullopt : std::optional(find_gguf_type(name)->type); }

}  // namespace

void check_gguf_options(GgufOptions& options, const std::string& where) {
  options.type = get_gguf_mix(options.type, where + ": type").name;
  const auto check = [&](std::string& type, const std::string& field) {
    if (!type.empty()) type = get_gguf_type(type, fmt::format("{}: {}", where, field)).name;
  };
  check(options.output_tensor_type, "output-tensor-type");
  check(options.token_embedding_type, "token-embedding-type");
  if (options.output_tensor == OutputTensor::left && !options.output_tensor_type.empty()) throw Error(ErrorKind::usage, fmt::format("{}: leave-output-tensor and output-tensor-type say different things; give one of them", where));
  for (auto& [pattern, type] : options.tensor_types) {
    const Pattern compiled(pattern);
    check(type, fmt::format("tensor-type {}", pattern));
  }
}

MixOverrides make_overrides(const GgufOptions& options) {
  MixOverrides overrides{.rules = options.rules, .output_tensor = options.output_tensor, .output_type = find_type(options.output_tensor_type), .embedding_type = find_type(options.token_embedding_type), .tensor_types = {}, .fallback = options.fallback};
  for (const auto& [pattern, type] : options.tensor_types) overrides.tensor_types.emplace_back(Pattern(pattern), *find_type(type));
  return overrides;
}

bool stores_floats(const GgufOptions& options) {
  const auto is_float = [](std::optional<GgufType> type) { return !type || get_info(*type).dtype; };
  return is_float(get_gguf_mix(options.type, "type").type) && is_float(find_type(options.output_tensor_type)) && is_float(find_type(options.token_embedding_type)) && std::ranges::all_of(options.tensor_types, [&](const auto& entry) { return is_float(find_type(entry.second)); });
}

GgufOptions read_gguf_options(const json& object, const std::string& where) {
  FieldReader fields(object, where);
  GgufOptions options;
  options.type = fields.find_string("type").value_or(options.type);
  options.rules = fields.find_bool("pure").value_or(false) ? MixRules::ignored : MixRules::used;
  options.output_tensor = fields.find_bool("leave_output_tensor").value_or(false) ? OutputTensor::left : OutputTensor::quantized;
  options.output_tensor_type = fields.find_string("output_tensor_type").value_or("");
  options.token_embedding_type = fields.find_string("token_embedding_type").value_or("");
  options.fallback = fields.find_bool("allow_fallback").value_or(false) ? TypeFallback::allowed : TypeFallback::refused;
  if (const json* list = fields.find("tensor_types")) {
    if (!list->is_array()) throw Error(ErrorKind::input, fmt::format("{}: tensor_types: expected a list of {{pattern, type}}", where));
    for (const json& entry : *list) {
      FieldReader pair(entry, where + ": tensor_types");
      options.tensor_types.emplace_back(pair.get_string("pattern"), pair.get_string("type"));
      pair.finish();
    }
  }
  fields.finish();
  check_gguf_options(options, where);
  return options;
}

json to_json(const GgufOptions& options) {
  json result = {{"type", options.type}};
  if (options.rules == MixRules::ignored) result["pure"] = true;
  if (options.output_tensor == OutputTensor::left) result["leave_output_tensor"] = true;
  if (!options.output_tensor_type.empty()) result["output_tensor_type"] = options.output_tensor_type;
  if (!options.token_embedding_type.empty()) result["token_embedding_type"] = options.token_embedding_type;
  if (options.fallback == TypeFallback::allowed) result["allow_fallback"] = true;
  for (const auto& [pattern, type] : options.tensor_types) result["tensor_types"].push_back({{"pattern", pattern}, {"type", type}});
  return result;
}

}  // namespace llmc
