#include "passes/recipe.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <array>

#include "core/error.h"
#include "core/json.h"
#include "core/utf8.h"
#include "passes/pass.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr std::array format_names = {"auto", "hf", "packed", "gguf"};

/// A YAML tree as JSON: plain scalars become null, booleans, integers or numbers where they look like one (YAML 1.2 core).
class YamlReader {
 public:
  explicit YamlReader(std::string where) : where_(std::move(where)) {}

  json read(const YAML::Node& node, int depth = 0) {
    constexpr int most_levels = 64, most_nodes = 100'000;
    if (depth > most_levels || ++nodes_ > most_nodes) throw Error(ErrorKind::input, fmt::format("{}: more than {} levels or {} values", where_, most_levels, most_nodes));
    switch (node.Type()) {
      case YAML::NodeType::Scalar: return read_scalar(node);
      case YAML::NodeType::Sequence: {
        json list = json::array();
        for (const YAML::Node& item : node) list.push_back(read(item, depth + 1));
        return list;
      }
      case YAML::NodeType::Map: {
        json object = json::object();
        for (const auto& pair : node) {
          const std::string key = text_of(pair.first);
          if (object.contains(key)) throw Error(ErrorKind::input, fmt::format("{}: key \"{}\" appears twice in one map", where_, key));
          object[key] = read(pair.second, depth + 1);
        }
        return object;
      }
      default: return nullptr;
    }
  }

 private:
  /// The parser makes single bytes of the escapes \N and \_.
  const std::string& text_of(const YAML::Node& node) {
    constexpr size_t most_bytes = size_t{16} << 20;  // aliases repeat what they stand for
    if ((bytes_ += node.Scalar().size()) > most_bytes) throw Error(ErrorKind::input, fmt::format("{}: more than {} bytes of text", where_, most_bytes));
    if (find_invalid_utf8(node.Scalar())) throw Error(ErrorKind::input, fmt::format("{}: line {}: an escape that is not read; expected the character itself", where_, node.Mark().line + 1));
    return node.Scalar();
  }

  json read_scalar(const YAML::Node& node) {
    const std::string& text = text_of(node);
    if (node.Tag() == "!") return text;  // quoted
    if (text.empty() || text == "~" || text == "null") return nullptr;
    if (text == "true" || text == "false") return text == "true";
    if (text.find_first_not_of("+-.0123456789eE") != std::string::npos) return text;
    const json number = json::parse(text, nullptr, false);
    return number.is_number() ? number : json(text);
  }

  std::string where_;
  int nodes_ = 0;
  size_t bytes_ = 0;  ///< of text
};

/// Strings quoted, so that they stay strings; numbers and booleans plain.
void emit(YAML::Emitter& out, const json& value) {
  if (value.is_object()) {
    out << YAML::BeginMap;
    for (const auto& [key, item] : value.items()) {
      out << YAML::Key << key << YAML::Value;
      emit(out, item);
    }
    out << YAML::EndMap;
  } else if (value.is_array()) {
    out << YAML::BeginSeq;
    for (const json& item : value) emit(out, item);
    out << YAML::EndSeq;
  } else if (value.is_string()) {
    out << YAML::DoubleQuoted << value.get<std::string>();
  } else {
    out << value.dump();
  }
}

}  // namespace

std::string_view to_string(Format format) { return format_names[static_cast<size_t>(format)]; }

Format parse_format(const std::string& text) {
  for (size_t i = 0; i < format_names.size(); ++i)
    if (text == format_names[i]) return static_cast<Format>(i);
  throw Error(ErrorKind::usage, fmt::format("format '{}' is not known; expected auto, hf, packed or gguf", text));
}

Recipe parse_recipe(std::string_view yaml, const std::string& where) {
  if (const auto at = find_invalid_utf8(yaml)) throw Error(ErrorKind::input, fmt::format("{}: {}", where, describe_invalid_utf8(yaml, *at)));
  if (const size_t zero = yaml.find('\0'); zero != std::string_view::npos)  // the parser would take it for the start of an escape
    throw Error(ErrorKind::input, fmt::format("{}: not valid YAML: a zero byte at {} of {}", where, zero + 1, yaml.size()));
  json object;
  try {
    object = YamlReader(where).read(YAML::Load(std::string(yaml)));
  } catch (const YAML::Exception& problem) {
    throw Error(ErrorKind::input, fmt::format("{}: not valid YAML: {}", where, problem.what()));
  }
  FieldReader fields(object, where);
  if (const int64_t version = fields.get_int("version"); version != recipe_version) throw Error(ErrorKind::input, fmt::format("{}: version: expected {}, found {}", where, recipe_version, version));
  Recipe recipe;
  const int64_t seed = fields.find_int("seed").value_or(0);
  if (seed < 0) throw Error(ErrorKind::input, fmt::format("{}: seed: expected a number from 0, found {}", where, seed));
  recipe.seed = static_cast<uint64_t>(seed);
  recipe.format = parse_format(fields.find_string("format").value_or("auto"));
  if (const auto size = fields.find_int("shard_size")) {
    if (*size < 1) throw Error(ErrorKind::input, fmt::format("{}: shard_size: expected a positive number of bytes, found {}", where, *size));
    recipe.shard_bytes = static_cast<uint64_t>(*size);
  }
  recipe.untie_head = fields.find_bool("untie_head").value_or(false);
  recipe.vocabulary = fields.find_strings("vocabulary");
  const json* steps = fields.find("steps");
  const json* gguf = fields.find("gguf");
  if (gguf && recipe.format != Format::gguf) throw Error(ErrorKind::input, fmt::format("{}: gguf makes no sense with format {}", where, to_string(recipe.format)));
  if (gguf) recipe.gguf = read_gguf_options(*gguf, where + ": gguf");
  const bool may_be_empty = !recipe.vocabulary.empty() || recipe.format == Format::gguf;
  if (may_be_empty ? steps && !steps->is_array() : !steps || !steps->is_array() || steps->empty()) throw Error(ErrorKind::input, fmt::format("{}: steps: expected a list with at least one step", where));
  if (steps) recipe.steps.assign(steps->begin(), steps->end());
  if (const json* calibration = fields.find("calibration")) recipe.calibration = read_calibration_options(*calibration, where + ": calibration");
  fields.finish();
  complete_recipe(recipe, where);
  return recipe;
}

namespace {

/// A step that rounds to blocks and the file that takes them say the same types; the step may leave them out.
void agree_on_types(json& step, const Recipe& recipe, const std::string& where) {
  if (recipe.format != Format::gguf || !step.is_object() || step.value("pass", "") != "quantize.gguf") return;
  const json types = to_json(recipe.gguf);
  if (!step.contains("types")) step["types"] = types;
  const json found = to_json(read_gguf_options(step.at("types"), where + ": types"));
  if (found != types) throw Error(ErrorKind::usage, fmt::format("{}: types: expected those of the recipe's gguf, {}, found {}", where, types.dump(), found.dump()));
}

}  // namespace

void complete_recipe(Recipe& recipe, const std::string& where) {
  bool needs_calibration = false;
  for (size_t i = 0; i < recipe.steps.size(); ++i) {
    agree_on_types(recipe.steps[i], recipe, fmt::format("{}: step {}", where, i + 1));
    const auto pass = make_pass(recipe.steps[i], fmt::format("{}: step {}", where, i + 1));
    recipe.steps[i] = pass->options();
    needs_calibration |= pass->needs_calibration();
  }
  if (recipe.calibration && !needs_calibration) throw Error(ErrorKind::usage, fmt::format("{}: calibration makes no sense here: no step needs it", where));
  if (needs_calibration && !recipe.calibration) recipe.calibration.emplace();
}

json to_json(const Recipe& recipe) {
  json result = {{"version", recipe_version}, {"seed", recipe.seed}, {"format", to_string(recipe.format)}, {"steps", recipe.steps}};
  if (recipe.shard_bytes) result["shard_size"] = *recipe.shard_bytes;
  if (recipe.untie_head) result["untie_head"] = true;
  if (!recipe.vocabulary.empty()) result["vocabulary"] = recipe.vocabulary;
  if (recipe.format == Format::gguf) result["gguf"] = to_json(recipe.gguf);
  if (recipe.calibration) result["calibration"] = to_json(*recipe.calibration);
  return result;
}

std::string to_yaml(const Recipe& recipe) {
  YAML::Emitter emitter;
  emit(emitter, to_json(recipe));
  return std::string(emitter.c_str()) + "\n";
}

}  // namespace llmc
