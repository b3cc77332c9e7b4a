// Owns what the tensor names of a GGUF file mean for a model, and the way back: data by role.
#pragma once

#include <string>
#include <vector>

#include "formats/gguf_mix.h"
#include "model/model.h"

namespace llmc {

/// Gives an opened GGUF file a config and the tensor names, shapes, row orders and weights of norms of a Hugging Face directory.
/// Keys that are not understood go into the config under their own names, where they are refused unless the user vouches for them.
/// Throws Error(input) that lists keys that are missing, contradict each other, or name an architecture that is not known.
void adopt_gguf(Checkpoint& checkpoint);

/// The name of a tensor in GGUF files, such as "blk.3.attn_q.weight".
std::string gguf_tensor_name(const TensorRow& row, int64_t block, Part part, int64_t expert = -1);
std::string gguf_tensor_name(const PlacedTensor& placed);

/// Which row of the logical matrix each row in the file is; empty when they are the same.
std::vector<int32_t> gguf_source_rows(const Model& model, const PlacedTensor& placed);

/// What the file's values have more than the tensor's: a norm's offset.
double gguf_offset(const Architecture& architecture, const TensorRow& row, Part part);

/// What llama-quantize's rules ask of a model.
MixFacts gguf_mix_facts(const Model& model, MixImportance importance);

/// Throws Error(usage) for what llama.cpp has no architecture for, does not load, or would run otherwise.
void check_gguf_model(const Model& model);
/// What llama.cpp does a little otherwise.
std::vector<std::string> gguf_notes(const Model& model);

}  // namespace llmc
