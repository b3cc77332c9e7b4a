#include "passes/gguf_importance.h"

#include <fmt/format.h>

#include <map>

#include "core/error.h"
#include "model/gguf_model.h"

namespace llmc {

std::vector<std::vector<float>> find_importance(const Imatrix& imatrix, const Model& model, const std::vector<GgufTarget>& targets, const std::string& where) {
  Problems problems;
  std::map<const StoredTensor*, const ImatrixEntry*> known;
  std::map<std::string, const StoredTensor*> linear;
  for (const PlacedTensor& placed : model.tensors())
    if (is_block_linear(placed) || placed.tensor == &model.get(Role::output_head)) linear[gguf_tensor_name(placed)] = placed.tensor;
  for (const auto& [name, entry] : imatrix.entries) {
    const auto weight = linear.find(name);
    if (weight == linear.end()) problems.add(fmt::format("entry {}: the model has no linear weight of that name", name));
    else if (std::ssize(entry.sums) != weight->second->cols()) problems.add(fmt::format("entry {}: expected {} columns, those of tensor {}, found {}", name, weight->second->cols(), weight->second->name, entry.sums.size()));
    else known[weight->second] = &entry;
  }
  std::vector<std::vector<float>> importance;
  for (const GgufTarget& target : targets) {
    const std::string name = gguf_tensor_name(*target.placed);
    const auto entry = known.find(target.placed->tensor);
    importance.push_back(entry == known.end() ? std::vector<float>() : entry->second->mean_square());
    if (target.placed->block >= 0 && !imatrix.entries.contains(name)) problems.add(fmt::format("tensor {}: expected an entry {}, found none", target.placed->tensor->name, name));
  }
  problems.throw_if_any(ErrorKind::input, where);
  return importance;
}

}  // namespace llmc
