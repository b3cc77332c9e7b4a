// Owns which entry of an imatrix weighs the errors of which tensor.
#pragma once

#include <string>
#include <vector>

#include "formats/imatrix.h"
#include "model/model.h"
#include "passes/gguf_targets.h"

namespace llmc {

/// For each target, in their order, the mean square of its input by column. Empty for an embedding, whose rows are looked up and
/// multiply nothing, and for a head (or the embedding that it is tied to) without an entry, as files of llama-imatrix come.
/// Throws Error(input) with every problem: a target in a block without an entry, an entry with another number of columns, an
/// entry for no linear weight of the model. `where` names the imatrix.
std::vector<std::vector<float>> find_importance(const Imatrix& imatrix, const Model& model, const std::vector<GgufTarget>& targets, const std::string& where);

}  // namespace llmc
