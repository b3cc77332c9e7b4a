// Owns the list of architectures: one function each, defined in the file of its name.
#pragma once

#include "model/architecture.h"

namespace llmc {

Architecture make_llama();
Architecture make_gpt2();
Architecture make_qwen2();
Architecture make_mistral();
Architecture make_qwen3();

}  // namespace llmc
