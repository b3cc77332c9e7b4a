// OLMo 2 (Walsh 2025): Llama with norms behind the sublayers instead of in front, and of all heads of queries and keys together.
#include "model/arch/list.h"
#include "model/arch/llama_family.h"

namespace llmc {

Architecture make_olmo2() {
  using enum Dimension;
  using enum TensorKind;
  Architecture olmo = make_llama_family("olmo2", "Olmo2ForCausalLM", 2048);
  olmo.gguf = {.name = "olmo2", .heads = GgufHeads::fill_hidden, .head = GgufHead::own, .attention_bias = GgufBias::never};
  get_config_row(olmo, "rms_norm_eps").fallback = 1e-5;
  olmo.config.push_back({.key = "attention_bias", .flag = &ModelConfig::attention_bias, .fallback = 0});
  set_bias(olmo, {Role::query, Role::key, Role::value, Role::attention_output}, Bias::if_attention_bias);
  erase_rows(olmo, {Role::attention_norm});
  get_tensor_row(olmo, Role::ffn_norm).role = Role::attention_output_norm;
  insert_after(olmo, Role::ffn_down, {{.role = Role::ffn_output_norm, .name = "model.layers.{}.post_feedforward_layernorm", .kind = norm, .out = hidden}});
  insert_after(olmo, Role::value, {{.role = Role::query_norm, .name = "model.layers.{}.self_attn.q_norm", .kind = norm, .out = query_width}, {.role = Role::key_norm, .name = "model.layers.{}.self_attn.k_norm", .kind = norm, .out = kv_width}});
  return olmo;
}

}  // namespace llmc
