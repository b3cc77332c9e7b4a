#include "plan/dry_run.h"

#include <algorithm>
#include <map>
#include <string>

#include "passes/gguf_artifact.h"

namespace llmc {

using nlohmann::json;

namespace {

/// The embedding and one block in f32 for both models, all codes as bytes, and the hidden states of the windows.
uint64_t estimate_memory(const Model& model, const Windows& windows) {
  int64_t block_weights = 0, codes = 0;
  for (const PlacedTensor& placed : model.tensors()) {
    if (is_block_linear(placed)) codes += placed.tensor->count();
    if (placed.block == 0) block_weights += placed.tensor->count();
  }
  const int64_t embedding = model.get(Role::token_embedding).count() + (model.config().tied_head ? 0 : model.get(Role::output_head).count());
  int64_t positions = 0;
  for (const Window& window : windows.list) positions += static_cast<int64_t>(window.tokens.size());
  const int64_t states = positions * model.config().hidden;
  return static_cast<uint64_t>(2 * 4 * (embedding + block_weights + states) + codes);
}

}  // namespace

DryRun plan_run(const CompressRequest& request, const RunContext& context) {
  const Model model = load_source(request, context);
  const RunText text = load_run_text(model, request);
  const CheckedRecipe checked = check_recipe(request.recipe, model);

  std::map<std::string, PlannedTensor> planned;
  for (const auto& treatments : checked.treatments)
    for (const Treatment& treatment : treatments) {
      PlannedTensor& row = planned[treatment.target->tensor->name];
      row.treatment += (row.treatment.empty() ? "" : " + ") + treatment.description;
      row.bits = row.bits == 0 ? treatment.bits : std::min(row.bits, treatment.bits);
    }
  DryRun plan{.source_bytes = model.checkpoint().weight_bytes(), .estimated_memory = estimate_memory(model, text.windows)};
  double bits = 0;
  int64_t positions = 0;
  for (const Window& window : text.windows.list) positions += static_cast<int64_t>(window.tokens.size());
  const Model& left = checked.outlines.empty() ? model : checked.outlines.back();
  const GgufPlan gguf = request.recipe.format == Format::gguf ? plan_gguf(left, request.recipe.gguf) : GgufPlan();
  for (size_t i = 0; i < left.tensors().size(); ++i) {
    const PlacedTensor& placed = left.tensors()[i];
    PlannedTensor row = planned[placed.tensor->name];
    if (row.treatment.empty()) row.treatment = "kept", row.bits = 8.0 * static_cast<double>(get_info(placed.tensor->dtype).bytes);
    if (!gguf.layouts.empty()) {
      const GgufTypeInfo& type = *gguf.layouts[i].type;
      row.treatment = (row.treatment == "kept" ? "" : row.treatment + " + ") + std::string(type.name);
      row.bits = type.bits_per_weight();
    }
    row.name = placed.tensor->name;
    row.shape = placed.tensor->shape;
    bits += row.bits * static_cast<double>(placed.tensor->count());
    const bool multiplied = is_block_linear(placed) || &left.get(Role::output_head) == placed.tensor;
    const double share = is_of_each_expert(placed.row->role) ? static_cast<double>(left.config().experts_per_token) / static_cast<double>(left.config().experts) : 1;  // of the tokens
    if (multiplied) plan.evaluation_products += 2.0 * share * static_cast<double>(placed.tensor->count()) * static_cast<double>(positions);
    plan.tensors.push_back(std::move(row));
  }
  plan.estimated_bytes = static_cast<uint64_t>(bits / 8);
  return plan;
}

json to_json(const DryRun& plan) {
  json result = {{"source", {{"bytes", plan.source_bytes}}}, {"estimated_bytes", plan.estimated_bytes}, {"estimated_memory_bytes", plan.estimated_memory}, {"evaluation_multiply_adds", plan.evaluation_products}, {"tensors", json::array()}};
  for (const PlannedTensor& tensor : plan.tensors) result["tensors"].push_back({{"name", tensor.name}, {"shape", tensor.shape}, {"treatment", tensor.treatment}, {"bits", tensor.bits}});
  return result;
}

}  // namespace llmc
