#include "passes/healed_block.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

namespace llmc {
namespace {

/// A codebook has no scales.
bool is_trained_weight(const StoredTensor& tensor) {
  if (has_block_scales(tensor)) return true;
  const Scheme* scheme = find_scheme(tensor);
  return scheme ? scheme->centroids == 0 : tensor.pruned;
}

}  // namespace

nlohmann::json to_json(const HealedCounts& counts) { return {{"scales", counts.scales}, {"norms_and_biases", counts.vectors}, {"pruned_weights", counts.weights}, {"codes", counts.codes}}; }

HealedBlock::HealedBlock(const Model& model, int64_t block, BlockTensors values, const HealRates& rates, uint64_t seed) : rates_(rates) {
  for (const PlacedTensor& placed : model.tensors())
    if (placed.block == block) add(model, placed, std::move(values(placed.row->role, placed.part)), seed);
}

void HealedBlock::add(const Model& model, const PlacedTensor& placed, Matrix values, uint64_t seed) {
  const StoredTensor& tensor = *placed.tensor;
  if (is_vector(placed)) {
    const StoredTensor* weight = placed.row->kind == TensorKind::norm ? nullptr : model.find(placed.row->role, placed.block);
    learned_.push_back({.placed = &placed, .start = weight && !is_trained_weight(*weight) ? read_matrix(*weight) : Matrix(), .values = {}, .offsets = {}});
    learned_.back().values.emplace<LearnedFloats>(tensor, LearnedFloats::Zeros::learned);
  } else if (is_trained_weight(tensor)) {
    if (rates_.code > 0 && !tensor.pruned)
      for (float& value : values.values())
        if (value == 0) value = std::numeric_limits<float>::min();  // LearnedGrid keeps zeros, which here are codes like others
    learned_.push_back({.placed = &placed, .start = std::move(values), .values = {}, .offsets = {}});
    Learned& learned = learned_.back();
    if (has_block_scales(tensor)) learned.values.emplace<LearnedBlocks>(tensor);
    else if (find_scheme(tensor)) learned.values.emplace<LearnedGrid>(learned.start.view(), read_codes(tensor));
    else learned.values.emplace<LearnedFloats>(tensor, LearnedFloats::Zeros::kept);
    if (rates_.code_rank > 0 && std::holds_alternative<LearnedGrid>(learned.values)) learned.offsets.emplace(tensor.rows(), tensor.cols(), rates_.code_rank, Random(seed, tensor.name));
  }
}

BlockTensors HealedBlock::make_gradients() const {
  BlockTensors gradients;
  for (const Learned& learned : learned_) gradients(learned.placed->row->role, learned.placed->part) = Matrix(learned.placed->tensor->rows(), learned.placed->tensor->cols());
  return gradients;
}

void HealedBlock::write_values(BlockTensors& values) const {
  for (const Learned& learned : learned_) {
    Matrix& matrix = values(learned.placed->row->role, learned.placed->part);
    if (const auto* grid = std::get_if<LearnedGrid>(&learned.values)) grid->write_values(matrix);
    if (const auto* blocks = std::get_if<LearnedBlocks>(&learned.values)) blocks->write_values(matrix);
    if (const auto* floats = std::get_if<LearnedFloats>(&learned.values)) floats->write_values(matrix);
    if (is_vector(*learned.placed) && !learned.start.empty()) values(learned.placed->row->role) = learned.start;
  }
}

void HealedBlock::update(BlockTensors& gradients, float left) {
  for (Learned& learned : learned_) {
    Matrix& gradient = gradients(learned.placed->row->role, learned.placed->part);
    const float scale_rate = left * static_cast<float>(rates_.scale);
    if (auto* grid = std::get_if<LearnedGrid>(&learned.values)) {
      const auto code_rate = left * static_cast<float>(rates_.code);
      grid->update(gradient, {.rounding = learned.offsets ? 0 : code_rate, .scale = scale_rate, .decay = {}});
      if (learned.offsets) {
        grid->make_offset_gradient(gradient);
        learned.offsets->update(gradient, code_rate);
        grid->set_offsets(learned.offsets->values());
      }
    }
    if (auto* blocks = std::get_if<LearnedBlocks>(&learned.values)) blocks->update(gradient, scale_rate);
    if (auto* floats = std::get_if<LearnedFloats>(&learned.values)) floats->update(gradient, {.rate = floats->size() * left * static_cast<float>(is_vector(*learned.placed) ? rates_.norm : rates_.weight)});
  }
}

void HealedBlock::store() const {
  for (const Learned& learned : learned_) {
    StoredTensor& tensor = *learned.placed->tensor;
    if (const auto* grid = std::get_if<LearnedGrid>(&learned.values)) tensor.form = grid->quantized();
    if (const auto* blocks = std::get_if<LearnedBlocks>(&learned.values)) blocks->store(tensor);
    if (const auto* floats = std::get_if<LearnedFloats>(&learned.values)) tensor.form = FloatData(Matrix(floats->values()));
  }
}

void HealedBlock::count(HealedCounts& counts) const {
  for (const Learned& learned : learned_) {
    const StoredTensor& tensor = *learned.placed->tensor;
    if (const auto* grid = std::get_if<LearnedGrid>(&learned.values)) counts.scales += grid->scale_count(), counts.codes += learned.offsets ? learned.offsets->parameters() : rates_.code > 0 ? tensor.count() : 0;
    else if (const auto* blocks = std::get_if<LearnedBlocks>(&learned.values)) counts.scales += blocks->scale_count();
    else (is_vector(*learned.placed) ? counts.vectors : counts.weights) += tensor.count();
  }
}

}  // namespace llmc
