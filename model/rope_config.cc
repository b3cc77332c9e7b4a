#include "model/rope_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "core/error.h"

namespace llmc {

using nlohmann::json;

namespace {

double positive(double value, const std::string& key, const std::string& where) {
  if (!std::isfinite(value) || value <= 0) throw Error(ErrorKind::input, fmt::format("{}field \"{}\": expected a positive number, found {}", where.empty() ? "" : where + ": ", key, value));
  return value;
}

double read_positive(FieldReader& fields, const std::string& key, std::optional<double> fallback = {}) {
  const auto value = fields.find_number(key);
  if (!value && !fallback) throw Error(ErrorKind::input, fmt::format("{}: field \"{}\" is missing", fields.where(), key));
  return positive(value.value_or(fallback.value_or(0)), key, fields.where());
}

RopeScaling read_scaling(FieldReader& fields, const Architecture& architecture) {
  std::string name = "default";
  const auto type = fields.find_string("rope_type"), old = fields.find_string("type");
  if (type && old && *type != *old) throw Error(ErrorKind::input, fmt::format("{}: rope_type is \"{}\" and type is \"{}\"", fields.where(), *type, *old));
  if (type || old) name = type.value_or(old.value_or(""));
  if (name == "default") return RopeScaling::none;
  if (architecture.longrope_only) {
    if (name == "longrope" || name == "su" || name == "yarn") return RopeScaling::longrope;
    throw Error(ErrorKind::input, fmt::format("field \"{}\": rope type \"{}\" is not supported in {}", fields.where(), name, architecture.causal_class));
  }
  for (const RopeScaling scaling : {RopeScaling::linear, RopeScaling::dynamic, RopeScaling::yarn, RopeScaling::longrope, RopeScaling::llama3})
    if (name == to_string(scaling)) return scaling;
  throw Error(ErrorKind::input, fmt::format("field \"{}\": rope type \"{}\" is not supported", fields.where(), name));
}

/// An explicit one, one from two coefficients as DeepSeek has them, or that of the paper.
double read_yarn_magnitude(FieldReader& fields, double factor) {
  const auto given = fields.find_number("attention_factor"), numerator = fields.find_number("mscale"), denominator = fields.find_number("mscale_all_dim");
  if (given) return positive(*given, "attention_factor", fields.where());
  if (!numerator.value_or(0) || !denominator.value_or(0) || factor <= 1) return default_yarn_magnitude(factor);
  const auto magnitude = [&](double coefficient) { return 0.1 * coefficient * std::log(factor) + 1; };
  return positive(magnitude(*numerator) / magnitude(*denominator), "mscale", fields.where());
}

/// What the two ways to state rotary positions have in common.
struct Stated {
  std::optional<double> theta;
  std::optional<double> share;  ///< of a head's values that are rotated
  std::optional<double> original_context;  ///< of longrope
};

void agree(std::optional<double>& stated, std::optional<double> found, const char* key, const std::string& where) {
  if (stated && found && *stated != *found) throw Error(ErrorKind::input, fmt::format("{} is {} at the top and {} in {}", key, *stated, *found, where));
  if (found) stated = found;
}

std::vector<float> read_factors(FieldReader& fields, const char* key) {
  const json* list = fields.find(key);
  if (!list) throw Error(ErrorKind::input, fmt::format("{}: field \"{}\" is missing", fields.where(), key));
  std::vector<float> factors;
  for (const json& factor : list->is_array() ? *list : json::array({nullptr})) {
    if (!factor.is_number()) throw Error(ErrorKind::input, fmt::format("{}: field \"{}\": expected a list of numbers, found {}", fields.where(), key, list->is_array() ? factor.dump() : list->dump()));
    factors.push_back(static_cast<float>(positive(factor.get<double>(), key, fields.where())));
  }
  return factors;
}

/// `context` is what the model was made for, all told.
void read_longrope(FieldReader& fields, double context, Stated& stated, Rope& rope) {
  agree(stated.original_context, fields.find_number("original_max_position_embeddings"), "original_max_position_embeddings", fields.where());
  rope.original_context = positive(stated.original_context.value_or(context), "original_max_position_embeddings", fields.where());
  if (rope.original_context <= 1) throw Error(ErrorKind::input, fmt::format("{}: original_max_position_embeddings: expected more than 1, found {}", fields.where(), rope.original_context));
  rope.factor = read_positive(fields, "factor", context / rope.original_context);
  const auto magnitude = fields.find_number("attention_factor");
  rope.magnitude = magnitude ? positive(*magnitude, "attention_factor", fields.where()) : default_longrope_magnitude(rope.factor, rope.original_context);
  rope.short_factors = read_factors(fields, "short_factor");
  rope.long_factors = read_factors(fields, "long_factor");
}

/// Unknown fields, in words that say how to ignore them.
void refuse_unread(const FieldReader& fields, const json& object, const std::set<std::string>& ignored) {
  Problems problems;
  for (const std::string& key : fields.unread()) {
    const std::string path = fmt::format("{}.{}", fields.where(), key);
    if (!object.at(key).is_null() && !ignored.contains(path)) problems.add(describe_unknown_field(path, object.at(key)));
  }
  if (!problems.empty()) throw Error(ErrorKind::input, fmt::format("{}", fmt::join(problems.list(), "; ")));
}

Rope read_object(const json& object, const std::string& where, const Architecture& architecture, double context, const std::set<std::string>& ignored, Stated& stated) {
  FieldReader fields(object, where);
  Rope rope{.scaling = read_scaling(fields, architecture), .original_context = context};
  agree(stated.theta, fields.find_number("rope_theta"), "rope_theta", where);
  const auto share = fields.find_number("partial_rotary_factor");
  if (architecture.rotary_share) agree(stated.share, share, "partial_rotary_factor", where);
  else if (share && *share != 1) throw Error(ErrorKind::input, fmt::format("field \"{}\": partial_rotary_factor {} is not supported", where, *share));
  if (rope.scaling != RopeScaling::none && rope.scaling != RopeScaling::longrope) rope.factor = read_positive(fields, "factor");
  switch (rope.scaling) {
    case RopeScaling::none:
      if (architecture.longrope_only) fields.find_number("original_max_position_embeddings");  // says nothing there
      break;
    case RopeScaling::linear:
    case RopeScaling::dynamic: fields.find_number("original_max_position_embeddings"); break;  // says nothing there
    case RopeScaling::yarn:
      rope.original_context = read_positive(fields, "original_max_position_embeddings", context);
      rope.fast = read_positive(fields, "beta_fast", 32);
      rope.slow = read_positive(fields, "beta_slow", 1);
      rope.whole_ramp = fields.find_bool("truncate").value_or(true);
      rope.magnitude = read_yarn_magnitude(fields, rope.factor);
      for (const char* unread_key : {"finetuned", "attn_factor"}) fields.find(unread_key);  // of the authors' own code; transformers reads neither
      break;
    case RopeScaling::longrope: read_longrope(fields, context, stated, rope); break;
    case RopeScaling::llama3:
      rope.original_context = read_positive(fields, "original_max_position_embeddings", context);
      rope.low = read_positive(fields, "low_freq_factor");
      rope.high = read_positive(fields, "high_freq_factor");
      if (rope.high <= rope.low) throw Error(ErrorKind::input, fmt::format("{}: high_freq_factor: expected more than low_freq_factor, {}, found {}", where, rope.low, rope.high));
      break;
  }
  refuse_unread(fields, object, ignored);
  return rope;
}

/// `objects` are those that may describe it, by name. `stated` gets what they say beside it.
Rope read_rope(const std::vector<std::pair<const char*, const json*>>& objects, Stated& stated, double theta, const Architecture& architecture, const std::set<std::string>& ignored, const ModelConfig& config) {
  const auto context = static_cast<double>(config.context);
  std::optional<Rope> found;
  for (const auto& [name, object] : objects) {
    if (!object) continue;
    const Rope rope = read_object(*object, name, architecture, context, ignored, stated);
    if (found && *found != rope) throw Error(ErrorKind::input, fmt::format("{} and {} say different things; expected one of them", objects.front().first, name));
    found = rope;
  }
  Rope rope = found.value_or(Rope{.original_context = context});
  rope.theta = positive(stated.theta.value_or(theta), architecture.rope_theta_key, "");
  const double share = positive(stated.share.value_or(architecture.rotary_share.value_or(1)), architecture.rotary_share_key, "");
  rope.dim = static_cast<int64_t>(static_cast<double>(config.head_dim) * share);
  if (share > 1 || rope.dim % 2 != 0) throw Error(ErrorKind::input, fmt::format("rotary positions need an even number of values of each head, found {} of {}", rope.dim, config.head_dim));
  if (rope.scaling == RopeScaling::dynamic && rope.dim < 4) throw Error(ErrorKind::input, fmt::format("dynamic rotary positions need 4 values of each head, found {}", rope.dim));
  for (const auto& [key, factors] : {std::pair("short_factor", &rope.short_factors), {"long_factor", &rope.long_factors}})
    if (rope.scaling == RopeScaling::longrope && std::ssize(*factors) != rope.dim / 2) throw Error(ErrorKind::input, fmt::format("field \"{}\": expected {} factors, one for each pair that is rotated, found {}", key, rope.dim / 2, factors->size()));
  return rope;
}

/// Of the blocks where a window holds and of the others: rope_parameters has an object for each.
void read_two_ropes(FieldReader& fields, const Architecture& architecture, const std::set<std::string>& ignored, ModelConfig& config) {
  const json *whole = nullptr, *window = nullptr;
  if (const json* both = fields.find("rope_parameters")) {
    FieldReader kinds(*both, "rope_parameters");
    whole = kinds.find("full_attention"), window = kinds.find("sliding_attention");
    kinds.finish();
  }
  Stated stated{.theta = fields.find_number(architecture.rope_theta_key), .share = {}, .original_context = {}}, of_window{.theta = fields.find_number("rope_local_base_freq"), .share = {}, .original_context = {}};
  config.rope = read_rope({{"rope_parameters.full_attention", whole}, {"rope_scaling", fields.find("rope_scaling")}}, stated, architecture.rope_theta, architecture, ignored, config);
  config.window_rope = read_rope({{"rope_parameters.sliding_attention", window}}, of_window, *architecture.window_theta, architecture, ignored, config);
}

/// What some releases of transformers write beside a model's own key, and none reads.
void same_or_absent(FieldReader& fields, const char* key, const char* own_key, double value) {
  if (std::string_view(key) == own_key) return;
  const auto found = fields.find_number(key);
  if (found && *found != value) throw Error(ErrorKind::input, fmt::format("field \"{}\" is {}, but {} is {}, which is the one that transformers reads", key, *found, own_key, value));
}

}  // namespace

void read_ropes(FieldReader& fields, const Architecture& architecture, const std::set<std::string>& ignored, ModelConfig& config) {
  if (architecture.window_theta) return read_two_ropes(fields, architecture, ignored, config);
  Stated stated{.theta = fields.find_number(architecture.rope_theta_key), .share = {}, .original_context = {}};
  if (architecture.rotary_share) stated.share = fields.find_number(architecture.rotary_share_key);
  if (architecture.longrope_only) stated.original_context = fields.find_number("original_max_position_embeddings").value_or(4096);  // Phi3Config's default
  config.rope = read_rope({{"rope_parameters", fields.find("rope_parameters")}, {"rope_scaling", fields.find("rope_scaling")}}, stated, architecture.rope_theta, architecture, ignored, config);
  config.window_rope = config.rope;
  same_or_absent(fields, "rope_theta", architecture.rope_theta_key, config.rope.theta);
  if (architecture.rotary_share) same_or_absent(fields, "partial_rotary_factor", architecture.rotary_share_key, stated.share.value_or(*architecture.rotary_share));
}

}  // namespace llmc
