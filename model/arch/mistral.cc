// Mistral (Jiang 2023): Llama whose queries may see a window of positions only. llama.cpp runs it as a Llama.
#include "model/arch/list.h"
#include "model/arch/llama_family.h"

namespace llmc {

Architecture make_mistral() {
  Architecture mistral = make_llama_family("mistral", "MistralForCausalLM", 131072);
  mistral.gguf = {.name = "llama", .rotary = GgufRotary::pairs, .rope_factors = true, .large = GgufLarge::shared_heads};
  mistral.config.push_back({.key = "sliding_window", .count = &ModelConfig::window, .fallback = 4096, .null = 0});
  mistral.fixed = {{"attention_bias", "false"}, {"mlp_bias", "false"}};
  return mistral;
}

}  // namespace llmc
