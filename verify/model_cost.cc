#include "verify/model_cost.h"

namespace llmc {

int64_t count_multiply_adds(const Model& model, const PlacedTensor& placed) {
  if (placed.part != Part::weight) return 0;
  const bool is_head = placed.row->role == Role::token_embedding && model.config().tied_head;
  const bool is_linear = placed.row->kind == TensorKind::linear || placed.row->kind == TensorKind::conv1d || placed.row->kind == TensorKind::router;
  const int64_t count = is_head || is_linear ? placed.tensor->count() : 0;
  return is_of_each_expert(placed.row->role) ? count * model.config().experts_per_token / model.config().experts : count;
}

int64_t count_multiply_adds(const Model& model) {
  int64_t sum = 0;
  for (const PlacedTensor& placed : model.tensors()) sum += count_multiply_adds(model, placed);
  return sum;
}

}  // namespace llmc
