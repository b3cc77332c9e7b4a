// Owns which tensors a pass works on: include and exclude patterns over the linear weights of the blocks.
#pragma once

#include <string>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/pattern.h"
#include "model/model.h"

namespace llmc {

/// Patterns over tensor names. No include pattern means all.
class Selection {
 public:
  Selection(std::vector<std::string> include, std::vector<std::string> exclude);

  /// The linear weights inside the blocks that are included and not excluded, in model order. A pattern that matches
  /// none of them is a problem.
  std::vector<const PlacedTensor*> select(const Model& model, Problems& problems) const;

  std::vector<std::string> include() const { return texts(include_); }
  std::vector<std::string> exclude() const { return texts(exclude_); }

 private:
  static std::vector<std::string> texts(const std::vector<Pattern>& patterns);
  std::vector<Pattern> include_;
  std::vector<Pattern> exclude_;
};

/// "pattern 'x' matches none of the …, such as model.layers.0.mlp.up_proj.weight"
std::string describe_unmatched(const Pattern& pattern, const std::vector<const PlacedTensor*>& candidates);

}  // namespace llmc
