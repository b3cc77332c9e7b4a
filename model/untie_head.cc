#include "model/untie_head.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "core/error.h"

namespace llmc {
namespace {

const TensorRow& get_role_row(const Architecture& architecture, Role role) {
  const auto row = std::ranges::find(architecture.tensors, role, &TensorRow::role);
  assert(row != architecture.tensors.end());
  return *row;
}

const char* tied_head_key(const Architecture& architecture) {
  const auto row = std::ranges::find(architecture.config, &ModelConfig::tied_head, &ConfigRow::flag);
  assert(row != architecture.config.end());
  return row->key;
}

}  // namespace

Model untie_head(Model model, const std::set<std::string>& ignored_config_fields) {
  const Architecture& architecture = model.architecture();
  if (!model.config().tied_head) throw Error(ErrorKind::usage, fmt::format("{}: its output head is not tied to the embedding; leave --untie (in a recipe: untie_head) out", model.checkpoint().directory.string()));
  const StoredTensor& shared = model.get(Role::token_embedding);
  const std::string head_name = std::string(get_role_row(architecture, Role::output_head).name) + ".weight";
  std::string embedding_name = std::string(get_role_row(architecture, Role::token_embedding).name) + ".weight";
  const std::string_view prefix = architecture.prefix;
  if (std::ranges::none_of(model.tensors(), [&](const PlacedTensor& placed) { return placed.tensor->name.starts_with(prefix); })) embedding_name.erase(0, prefix.size());
  StoredTensor copy{.name = shared.name == head_name ? embedding_name : head_name, .dtype = shared.dtype, .shape = shared.shape, .form = FloatData(std::get<FloatData>(shared.form).bytes())};

  Origin origin = model.origin();
  Checkpoint checkpoint = std::move(model.checkpoint());
  checkpoint.config[tied_head_key(architecture)] = false;
  checkpoint.tensors.push_back(std::move(copy));
  std::ranges::sort(checkpoint.tensors, {}, &StoredTensor::name);
  Model untied = place_tensors(std::move(checkpoint), ignored_config_fields);
  untied.set_origin(std::move(origin));
  return untied;
}

}  // namespace llmc
