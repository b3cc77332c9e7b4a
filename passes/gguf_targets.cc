#include "passes/gguf_targets.h"

#include <fmt/format.h>

#include "core/error.h"
#include "model/gguf_model.h"

namespace llmc {

std::vector<GgufTarget> find_gguf_targets(const Model& model, const GgufOptions& options, MixImportance importance) {
  std::vector<MixInput> inputs;
  Problems problems;
  for (const PlacedTensor& placed : model.tensors()) inputs.push_back({gguf_tensor_name(placed), is_vector(placed) ? placed.tensor->shape : Shape{placed.tensor->rows(), placed.tensor->cols()}});
  const auto chosen = choose_gguf_types(get_gguf_mix(options.type, "type"), gguf_mix_facts(model, importance), make_overrides(options), inputs);
  std::vector<GgufTarget> targets;
  for (size_t i = 0; i < chosen.size(); ++i) {
    if (!chosen[i].type || get_info(*chosen[i].type).dtype) continue;
    const PlacedTensor& placed = model.tensors()[i];
    if (find_scheme(*placed.tensor)) problems.add(fmt::format("tensor {}: is already quantized", placed.tensor->name));
    targets.push_back({.placed = &placed, .type = &get_info(*chosen[i].type), .instead_of = chosen[i].instead_of ? &get_info(*chosen[i].instead_of) : nullptr});
  }
  if (targets.empty() && problems.empty()) problems.add("nothing would be quantized");
  problems.throw_if_any(ErrorKind::usage, "quantize");
  return targets;
}

}  // namespace llmc
