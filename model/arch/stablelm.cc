// StableLM (Bellagente 2024): Llama with LayerNorm and a quarter of each head rotated; the larger ones with a norm of each head's own.
#include <algorithm>

#include "model/arch/list.h"
#include "model/arch/llama_family.h"

namespace llmc {

Architecture make_stablelm() {
  Architecture stablelm = make_llama_family("stablelm", "StableLmForCausalLM", 4096);
  stablelm.gguf = {.name = "stablelm", .heads = GgufHeads::fill_hidden, .head = GgufHead::own};
  stablelm.norm = Norm::layer;
  stablelm.rotary_share = 0.25;
  ConfigRow& epsilon = get_config_row(stablelm, "rms_norm_eps");
  epsilon.key = "layer_norm_eps", epsilon.fallback = 1e-5;
  ConfigRow& kv_heads = get_config_row(stablelm, "num_key_value_heads");
  kv_heads.fallback_count = nullptr, kv_heads.fallback = 32;
  std::erase_if(stablelm.config, [](const ConfigRow& row) { return row.count == &ModelConfig::head_dim; });
  stablelm.config.push_back({.key = "use_qkv_bias", .flag = &ModelConfig::attention_bias, .fallback = 0});
  stablelm.config.push_back({.key = "use_parallel_residual", .flag = &ModelConfig::parallel, .fallback = 0});
  stablelm.config.push_back({.key = "qk_layernorm", .flag = &ModelConfig::own_head_norms, .fallback = 0});
  stablelm.harmless = {"attention_dropout", "hidden_dropout"};
  set_bias(stablelm, {Role::query, Role::key, Role::value}, Bias::if_attention_bias);
  set_bias(stablelm, {Role::attention_norm, Role::ffn_norm, Role::final_norm}, Bias::always);
  insert_after(stablelm, Role::value,
               {{.role = Role::query_norm, .name = "model.layers.{}.self_attn.q_layernorm.norms.{}", .kind = TensorKind::norm, .out = Dimension::head, .only_if = &ModelConfig::own_head_norms, .each = &ModelConfig::heads},
                {.role = Role::key_norm, .name = "model.layers.{}.self_attn.k_layernorm.norms.{}", .kind = TensorKind::norm, .out = Dimension::head, .only_if = &ModelConfig::own_head_norms, .each = &ModelConfig::kv_heads}});
  get_tensor_row(stablelm, Role::ffn_norm).unless = &ModelConfig::parallel;  // both sublayers read what the first norm gives
  return stablelm;
}

}  // namespace llmc
