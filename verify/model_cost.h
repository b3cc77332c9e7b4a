// Owns what a token costs: the multiply-adds of the weights it is multiplied with.
#pragma once

#include <cstdint>

#include "model/model.h"

namespace llmc {

/// Multiply-adds of one token with a tensor: one for each weight of a linear layer (of an expert as many as the mean token has), a tied matrix counting as the head that it
/// is too; none for what is looked up, added or elementwise.
int64_t count_multiply_adds(const Model& model, const PlacedTensor& placed);

/// Of the whole model. Products of activations with each other, in attention, grow with the context and are not in it.
int64_t count_multiply_adds(const Model& model);

}  // namespace llmc
