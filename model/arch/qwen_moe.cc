// Qwen2-MoE (Yang 2024, section 2.2.2) and Qwen3-MoE (Yang 2025): Qwen2 and Qwen3 with many small experts; the former has a shared expert
// beside them, which all tokens go through.
#include <initializer_list>
#include <utility>
#include <vector>

#include "model/arch/list.h"
#include "model/arch/llama_family.h"

namespace llmc {
namespace {

/// What both have; `base`: the architecture without experts.
Architecture with_experts(Architecture base, const char* model_type, const char* causal_class) {
  Architecture moe = std::move(base);
  moe.model_type = model_type;
  moe.causal_class = causal_class;
  moe.gguf = {};
  std::erase_if(moe.config, [](const ConfigRow& row) { return row.count == &ModelConfig::ffn; });
  // A block that the last two of these fields make dense would be as wide as intermediate_size.
  for (const FixedRow& row : {FixedRow{"decoder_sparse_step", "1"}, FixedRow{"mlp_only_layers", "[]"}}) moe.fixed.push_back(row);
  for (const char* key : {"intermediate_size", "output_router_logits", "router_aux_loss_coef"}) moe.harmless.push_back(key);
  moe.config.push_back({.key = "norm_topk_prob", .flag = &ModelConfig::normalizes_routing, .fallback = 0});
  insert_after(moe, Role::ffn_norm, expert_rows("model.layers.{}.mlp.gate", "model.layers.{}.mlp.experts.{}.gate_proj", "model.layers.{}.mlp.experts.{}.up_proj", "model.layers.{}.mlp.experts.{}.down_proj"));
  erase_rows(moe, {Role::ffn_gate, Role::ffn_up, Role::ffn_down});
  return moe;
}

}  // namespace

Architecture make_qwen2_moe() {
  using enum Dimension;
  using enum TensorKind;
  Architecture qwen = with_experts(make_qwen2(), "qwen2_moe", "Qwen2MoeForCausalLM");
  const std::initializer_list<ConfigRow> rows = {
      {.key = "num_experts", .count = &ModelConfig::experts, .fallback = 60},
      {.key = "num_experts_per_tok", .count = &ModelConfig::experts_per_token, .fallback = 4},
      {.key = "moe_intermediate_size", .count = &ModelConfig::expert_ffn, .fallback = 1408},
      {.key = "shared_expert_intermediate_size", .count = &ModelConfig::shared_ffn, .fallback = 5632},
      {.key = "qkv_bias", .flag = &ModelConfig::attention_bias, .fallback = 1},
  };
  qwen.config.insert(qwen.config.end(), rows);
  set_bias(qwen, {Role::query, Role::key, Role::value}, Bias::if_attention_bias);
  insert_after(qwen, Role::expert_down, {
      {.role = Role::shared_router, .name = "model.layers.{}.mlp.shared_expert_gate", .kind = router, .out = one},
      {.role = Role::shared_gate, .name = "model.layers.{}.mlp.shared_expert.gate_proj", .kind = linear, .out = shared_ffn},
      {.role = Role::shared_up, .name = "model.layers.{}.mlp.shared_expert.up_proj", .kind = linear, .out = shared_ffn},
      {.role = Role::shared_down, .name = "model.layers.{}.mlp.shared_expert.down_proj", .kind = linear, .out = hidden, .in = shared_ffn},
  });
  return qwen;
}

Architecture make_qwen3_moe() {
  Architecture qwen = with_experts(make_qwen3(), "qwen3_moe", "Qwen3MoeForCausalLM");
  for (const FixedRow& row : {FixedRow{"qkv_bias", "false"}, FixedRow{"use_qk_norm", "true"}, FixedRow{"shared_expert_intermediate_size", "0"}}) qwen.fixed.push_back(row);  // its class reads none of them
  get_config_row(qwen, "head_dim").fallback = 0;
  const std::initializer_list<ConfigRow> rows = {
      {.key = "num_experts", .alias = "num_local_experts", .count = &ModelConfig::experts, .fallback = 128},
      {.key = "num_experts_per_tok", .count = &ModelConfig::experts_per_token, .fallback = 8},
      {.key = "moe_intermediate_size", .count = &ModelConfig::expert_ffn, .fallback = 768},
  };
  qwen.config.insert(qwen.config.end(), rows);
  return qwen;
}

}  // namespace llmc
