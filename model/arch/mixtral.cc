// Mixtral (Jiang 2024): Mistral with several feed-forwards in each block, of which a token goes through those that a router prefers.
#include "model/arch/list.h"
#include "model/arch/llama_family.h"

namespace llmc {

Architecture make_mixtral() {
  Architecture mixtral = make_llama_family("mixtral", "MixtralForCausalLM", 131072);
  mixtral.rope_theta = 1000000;
  mixtral.routing = Routing::normalized;
  get_config_row(mixtral, "intermediate_size").count = &ModelConfig::expert_ffn;
  get_config_row(mixtral, "rms_norm_eps").fallback = 1e-5;
  mixtral.config.push_back({.key = "num_local_experts", .count = &ModelConfig::experts, .fallback = 8});
  mixtral.config.push_back({.key = "num_experts_per_tok", .count = &ModelConfig::experts_per_token, .fallback = 2});
  mixtral.config.push_back({.key = "sliding_window", .count = &ModelConfig::window, .fallback = 0});
  mixtral.fixed = {{"attention_bias", "false"}, {"mlp_bias", "false"}};
  mixtral.harmless = {"attention_dropout", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise"};
  insert_after(mixtral, Role::ffn_norm, expert_rows("model.layers.{}.block_sparse_moe.gate", "model.layers.{}.block_sparse_moe.experts.{}.w1", "model.layers.{}.block_sparse_moe.experts.{}.w3", "model.layers.{}.block_sparse_moe.experts.{}.w2"));
  erase_rows(mixtral, {Role::ffn_gate, Role::ffn_up, Role::ffn_down});
  return mixtral;
}

}  // namespace llmc
