// Owns cutting a model down to fewer blocks, key/value groups, feed-forward channels, hidden dimensions or tokens, with the
// config.json that says so.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/model.h"

namespace llmc {

/// What stays, by number in the model that is cut, ascending. An empty list keeps all.
struct Kept {
  std::vector<int64_t> blocks;
  std::vector<std::vector<int64_t>> kv_groups;  ///< of each block that stays, as many in each: key/value heads with the query heads that share them
  std::vector<std::vector<int64_t>> ffn;        ///< of each block that stays, as many in each
  std::vector<int64_t> hidden;
  std::vector<int64_t> tokens;
};

/// How many of each stay.
struct Sizes {
  int64_t blocks = 0;
  int64_t kv_groups = 0;
  int64_t ffn = 0;
  int64_t hidden = 0;
  int64_t tokens = 0;

  bool operator==(const Sizes&) const = default;
};
Sizes sizes_of(const ModelConfig& config);

/// Adds every reason why a model cannot have those sizes, or config.json of its architecture cannot say them, by its field.
void check_sizes(const Model& model, const Sizes& sizes, Problems& problems);

/// The smaller model. The rows and columns that stay are as they were, in f32 until round_floats() where they were so; the
/// source is used up. Throws Error(input) as place_tensors does.
Model cut_model(Model model, const Kept& kept);

/// A model of those sizes for plans to be made on: names, shapes and config as cut_model() would leave them, matrices without
/// values. It borrows the source's.
Model outline_model(const Model& model, const Sizes& sizes);

}  // namespace llmc
