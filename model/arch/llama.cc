// Llama (Touvron 2023): RMSNorm, rotary positions, grouped-query attention, gated feed-forward.
#include "model/arch/list.h"
#include "model/arch/llama_family.h"

namespace llmc {

Architecture make_llama() {
  Architecture llama = make_llama_family("llama", "LlamaForCausalLM", 2048);
  llama.gguf = {.name = "llama", .rotary = GgufRotary::pairs, .rope_factors = true, .large = GgufLarge::shared_heads};
  llama.heads_divide_hidden = true;
  llama.config.push_back({.key = "attention_bias", .flag = &ModelConfig::attention_bias, .fallback = 0});
  llama.config.push_back({.key = "mlp_bias", .flag = &ModelConfig::ffn_bias, .fallback = 0});
  llama.fixed = {{"rope_interleaved", "false"}};
  llama.fixed_by_block = {{"layer_types", "\"full_attention\""}};
  llama.harmless.push_back("pretraining_tp");  // how products are cut, in releases that are no more
  set_bias(llama, {Role::query, Role::key, Role::value, Role::attention_output}, Bias::if_attention_bias);
  set_bias(llama, {Role::ffn_gate, Role::ffn_up, Role::ffn_down}, Bias::if_ffn_bias);
  return llama;
}

}  // namespace llmc
