// Phi-3 (Abdin 2024): Llama with one matrix for query, key and value, one for gate and up, and a part of each head rotated.
#include "model/arch/list.h"
#include "model/arch/llama_family.h"

namespace llmc {

Architecture make_phi3() {
  Architecture phi = make_llama_family("phi3", "Phi3ForCausalLM", 4096);
  phi.gguf = {.name = "phi3", .heads = GgufHeads::fill_hidden, .window = GgufWindow::ignored};
  phi.rotary_share = 1;
  phi.longrope_only = true;
  get_config_row(phi, "rms_norm_eps").fallback = 1e-5;
  phi.config.push_back({.key = "sliding_window", .count = &ModelConfig::window, .fallback = 0, .null = 0});
  phi.fixed = {{"attention_bias", "false"}, {"full_attn_mod", "1"}, {"interpolate_factor", "1"}, {"lm_head_bias", "false"}, {"mlp_bias", "false"}};
  phi.harmless = {"attention_dropout", "embd_pdrop", "resid_pdrop"};
  erase_rows(phi, {Role::key, Role::value, Role::ffn_up});
  get_tensor_row(phi, Role::query) = {.role = Role::query_key_value, .name = "model.layers.{}.self_attn.qkv_proj", .kind = TensorKind::linear, .out = Dimension::query_key_value_width};
  get_tensor_row(phi, Role::ffn_gate) = {.role = Role::ffn_gate_up, .name = "model.layers.{}.mlp.gate_up_proj", .kind = TensorKind::linear, .out = Dimension::gate_up_width};
  return phi;
}

}  // namespace llmc
