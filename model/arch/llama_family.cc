#include "model/arch/llama_family.h"

#include <algorithm>
#include <cassert>
#include <string_view>

namespace llmc {

Architecture make_llama_family(const char* model_type, const char* causal_class, int64_t default_context) {
  using enum Dimension;
  using enum TensorKind;
  return {
      .model_type = model_type,
      .causal_class = causal_class,
      .prefix = "model.",
      .activation_key = "hidden_act",
      .activation_fallback = "silu",
      .norm = Norm::rms,
      .positions = Positions::rope,
      .feed_forward = FeedForward::gated,
      .config =
          {
              {.key = "vocab_size", .count = &ModelConfig::vocabulary},
              {.key = "hidden_size", .count = &ModelConfig::hidden},
              {.key = "intermediate_size", .count = &ModelConfig::ffn},
              {.key = "num_hidden_layers", .count = &ModelConfig::layers},
              {.key = "num_attention_heads", .count = &ModelConfig::heads},
              {.key = "num_key_value_heads", .count = &ModelConfig::kv_heads, .fallback_count = &ModelConfig::heads},
              {.key = "head_dim", .count = &ModelConfig::head_dim, .fallback = 0},
              {.key = "max_position_embeddings", .count = &ModelConfig::context, .fallback = static_cast<double>(default_context)},
              {.key = "rms_norm_eps", .number = &ModelConfig::norm_epsilon, .fallback = 1e-6},
              {.key = "tie_word_embeddings", .flag = &ModelConfig::tied_head, .fallback = 0},
          },
      .harmless = {"attention_dropout"},
      .tensors =
          {
              {.role = Role::token_embedding, .name = "model.embed_tokens", .kind = embedding, .out = vocabulary},
              {.role = Role::attention_norm, .name = "model.layers.{}.input_layernorm", .kind = norm, .out = hidden},
              {.role = Role::query, .name = "model.layers.{}.self_attn.q_proj", .kind = linear, .out = query_width},
              {.role = Role::key, .name = "model.layers.{}.self_attn.k_proj", .kind = linear, .out = kv_width},
              {.role = Role::value, .name = "model.layers.{}.self_attn.v_proj", .kind = linear, .out = kv_width},
              {.role = Role::attention_output, .name = "model.layers.{}.self_attn.o_proj", .kind = linear, .out = hidden, .in = query_width},
              {.role = Role::ffn_norm, .name = "model.layers.{}.post_attention_layernorm", .kind = norm, .out = hidden},
              {.role = Role::ffn_gate, .name = "model.layers.{}.mlp.gate_proj", .kind = linear, .out = ffn},
              {.role = Role::ffn_up, .name = "model.layers.{}.mlp.up_proj", .kind = linear, .out = ffn},
              {.role = Role::ffn_down, .name = "model.layers.{}.mlp.down_proj", .kind = linear, .out = hidden, .in = ffn},
              {.role = Role::final_norm, .name = "model.norm", .kind = norm, .out = hidden},
              {.role = Role::output_head, .name = "lm_head", .kind = linear, .out = vocabulary},
          },
      .buffers = {R"(^(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq$)"},
  };
}

ConfigRow& get_config_row(Architecture& architecture, std::string_view key) {
  const auto found = std::ranges::find(architecture.config, key, [](const ConfigRow& row) { return std::string_view(row.key); });
  assert(found != architecture.config.end());
  return *found;
}

TensorRow& get_tensor_row(Architecture& architecture, Role role) {
  const auto found = std::ranges::find(architecture.tensors, role, &TensorRow::role);
  assert(found != architecture.tensors.end());
  return *found;
}

void insert_after(Architecture& architecture, Role role, const std::vector<TensorRow>& rows) {
  const auto place = std::ranges::find(architecture.tensors, role, &TensorRow::role);
  architecture.tensors.insert(place + 1, rows.begin(), rows.end());
}

std::vector<TensorRow> expert_rows(const char* router, const char* gate, const char* up, const char* down) {
  return {
      {.role = Role::router, .name = router, .kind = TensorKind::router, .out = Dimension::experts},
      {.role = Role::expert_gate, .name = gate, .kind = TensorKind::linear, .out = Dimension::expert_ffn},
      {.role = Role::expert_up, .name = up, .kind = TensorKind::linear, .out = Dimension::expert_ffn},
      {.role = Role::expert_down, .name = down, .kind = TensorKind::linear, .out = Dimension::hidden, .in = Dimension::expert_ffn},
  };
}

void erase_rows(Architecture& architecture, std::initializer_list<Role> roles) {
  std::erase_if(architecture.tensors, [&](const TensorRow& row) { return std::ranges::find(roles, row.role) != roles.end(); });
}

void set_bias(Architecture& architecture, std::initializer_list<Role> roles, Bias bias) {
  for (TensorRow& row : architecture.tensors)
    if (std::ranges::find(roles, row.role) != roles.end()) row.bias = bias;
}

}  // namespace llmc
