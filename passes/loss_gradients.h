// Owns gradients of a model's own loss on calibration text, sample by sample: what it costs to change weights, to first order.
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "passes/pass.h"

namespace llmc {

/// Called for each sample and tensor with the gradient, in the shape of the tensor's matrix, of the mean cross-entropy of the sample's
/// next tokens. Tensors are those asked for; samples come in their order. Memory: the model in f32, its weights in both directions,
/// one block's gradients. Throws Error(input) when a loss is no number.
using GradientBody = std::function<void(const PlacedTensor& placed, const Matrix& gradient)>;
void visit_loss_gradients(const Model& model, const std::vector<const PlacedTensor*>& tensors, const PassContext& context, const GradientBody& body);

/// Mean square of every weight's gradient, over samples: the diagonal of the empirical Fisher information.
std::map<const PlacedTensor*, Matrix> measure_fisher(const Model& model, const std::vector<const PlacedTensor*>& tensors, const PassContext& context);

}  // namespace llmc
