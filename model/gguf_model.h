// Owns what the keys and tensor names of a GGUF file mean for a model, and the way back: data by role and by field of the config.
#pragma once

#include <string>
#include <vector>

#include "formats/gguf_metadata.h"
#include "formats/gguf_mix.h"
#include "model/model.h"

namespace llmc {

/// Gives an opened GGUF file a config and the tensor names, shapes and row orders of a Hugging Face directory. Keys that are
/// not understood go into the config under their own names, where they are refused unless the user vouches for them.
/// Throws Error(input) that lists keys that are missing, contradict each other, or name an architecture that is not known.
void adopt_gguf(Checkpoint& checkpoint);

/// The name of a tensor in GGUF files, such as "blk.3.attn_q.weight".
std::string gguf_tensor_name(const PlacedTensor& placed);

/// Which row of the logical matrix each row in the file is; empty when they are the same.
std::vector<int32_t> gguf_source_rows(const Model& model, const PlacedTensor& placed);

/// What llama-quantize's rules ask of a model.
MixFacts gguf_mix_facts(const Model& model, MixImportance importance);

/// Throws Error(usage) for what llama.cpp has no architecture for, does not load, or would run otherwise.
void check_gguf_model(const Model& model);

/// The keys that describe the model's maths.
void add_gguf_config(GgufMetadata& metadata, const Model& model);

}  // namespace llmc
