// Owns the list of architectures: one function each, defined in the file of its name.
#pragma once

#include "model/architecture.h"

namespace llmc {

Architecture make_llama();
Architecture make_gpt2();
Architecture make_qwen2();
Architecture make_mistral();
Architecture make_qwen3();
Architecture make_phi3();
Architecture make_stablelm();
Architecture make_olmo2();
Architecture make_gemma();
Architecture make_gemma2();
Architecture make_gemma3();
Architecture make_gpt_neox();
Architecture make_opt();
Architecture make_bloom();
Architecture make_falcon();
Architecture make_mixtral();
Architecture make_qwen2_moe();
Architecture make_qwen3_moe();

}  // namespace llmc
