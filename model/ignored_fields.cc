#include "model/ignored_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "model/architecture.h"

namespace llmc {
namespace {

/// Whether the config is refused when this field is not ignored.
bool is_needed(const Model& model, std::set<std::string> ignored, const std::string& field) {
  ignored.erase(field);
  try {
    read_config(model.checkpoint().config, model.architecture(), ignored, "");
  } catch (const Error&) {
    return true;
  }
  return false;
}

/// Of the config itself, or "rope_scaling.name" of one of its objects.
bool has_field(const nlohmann::json& config, const std::string& field) {
  if (config.contains(field)) return true;
  const size_t dot = field.find('.');
  if (dot == std::string::npos) return false;
  const auto outer = config.find(field.substr(0, dot));
  return outer != config.end() && outer->is_object() && outer->contains(field.substr(dot + 1));
}

}  // namespace

void warn_of_idle_fields(const std::vector<const Model*>& models, const std::set<std::string>& ignored, const RunContext& context) {
  for (const std::string& field : ignored) {
    if (std::ranges::any_of(models, [&](const Model* model) { return is_needed(*model, ignored, field); })) continue;
    const bool is_there = std::ranges::any_of(models, [&](const Model* model) { return has_field(model->checkpoint().config, field); });
    const std::string where = models.size() == 1 ? models.front()->checkpoint().config_name() : "no model";
    const std::string found = !is_there ? fmt::format("{} has {} field", where, models.size() == 1 ? "no such" : "such a") : "is understood, and not ignored";
    context.sink.warn(fmt::format("--ignore-config-field {}: {}", field, found));
  }
}

}  // namespace llmc
