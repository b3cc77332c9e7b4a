// Owns the f32 values of one decoder block's tensors, or their gradients, outside of any checkpoint.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "core/tensor.h"
#include "model/model.h"

namespace llmc {

/// Matrices by what they do: weights [out, in]; norm weights and biases [1, out].
class BlockTensors {
 public:
  /// An empty matrix where there was none.
  Matrix& operator()(Role role, Part part = Part::weight) { return matrices_[{role, part}]; }
  /// nullptr where there is none.
  const Matrix* find(Role role, Part part = Part::weight) const {
    const auto found = matrices_.find({role, part});
    return found == matrices_.end() || found->second.empty() ? nullptr : &found->second;
  }
  Matrix* find(Role role, Part part = Part::weight) { return const_cast<Matrix*>(std::as_const(*this).find(role, part)); }
  const Matrix& get(Role role, Part part = Part::weight) const { return matrices_.at({role, part}); }

  auto begin() { return matrices_.begin(); }
  auto end() { return matrices_.end(); }
  auto begin() const { return matrices_.begin(); }
  auto end() const { return matrices_.end(); }

 private:
  std::map<std::pair<Role, Part>, Matrix> matrices_;
};

/// Throws Error(usage), beginning with `where`, for a model that gradients do not go through: one with experts.
void check_trainable(const Model& model, const std::string& where);

/// Every tensor of a block, or with −1 those outside the blocks, in whatever form it is stored. Throws Error(input).
BlockTensors read_block(const Model& model, int64_t block);

}  // namespace llmc
