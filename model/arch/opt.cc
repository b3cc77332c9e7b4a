// OPT (Zhang 2022): LayerNorm, learned positions with two rows in front of the first, ReLU. OPT-350m has its norms behind the sublayers, and
// embeddings half as wide as its hidden states.
#include "model/arch/list.h"

namespace llmc {

Architecture make_opt() {
  using enum Dimension;
  using enum TensorKind;
  return {
      .model_type = "opt",
      .causal_class = "OPTForCausalLM",
      .prefix = "model.",
      .activation_key = "activation_function",
      .activation_fallback = "relu",
      .norm = Norm::layer,
      .positions = Positions::learned,
      .feed_forward = FeedForward::plain,
      .position_offset = 2,
      .norm_epsilon = 1e-5,
      .config =
          {
              {.key = "vocab_size", .count = &ModelConfig::vocabulary},
              {.key = "hidden_size", .count = &ModelConfig::hidden},
              {.key = "word_embed_proj_dim", .count = &ModelConfig::embedding, .fallback_count = &ModelConfig::hidden},
              {.key = "do_layer_norm_before", .flag = &ModelConfig::norms_before_sum, .fallback = 1},
              {.key = "ffn_dim", .count = &ModelConfig::ffn},
              {.key = "num_hidden_layers", .count = &ModelConfig::layers},
              {.key = "num_attention_heads", .count = &ModelConfig::heads},
              {.key = "max_position_embeddings", .count = &ModelConfig::context, .fallback = 2048},
              {.key = "tie_word_embeddings", .flag = &ModelConfig::tied_head, .fallback = 1},
          },
      .fixed = {{"_remove_final_layer_norm", "false"}, {"enable_bias", "true"}, {"layer_norm_elementwise_affine", "true"}},
      .harmless = {"activation_dropout", "attention_dropout", "dropout", "init_std", "layerdrop"},
      .tensors =
          {
              {.role = Role::token_embedding, .name = "model.decoder.embed_tokens", .kind = embedding, .out = vocabulary, .in = token_width},
              {.role = Role::embedding_projection, .name = "model.decoder.project_in", .kind = linear, .out = hidden, .in = token_width, .only_if = &ModelConfig::projects_embedding},
              {.role = Role::position_embedding, .name = "model.decoder.embed_positions", .kind = embedding, .out = context},
              {.role = Role::attention_norm, .name = "model.decoder.layers.{}.self_attn_layer_norm", .kind = norm, .out = hidden, .bias = Bias::always, .only_if = &ModelConfig::norms_before_sum},
              {.role = Role::query, .name = "model.decoder.layers.{}.self_attn.q_proj", .kind = linear, .out = query_width, .bias = Bias::always},
              {.role = Role::key, .name = "model.decoder.layers.{}.self_attn.k_proj", .kind = linear, .out = kv_width, .bias = Bias::always},
              {.role = Role::value, .name = "model.decoder.layers.{}.self_attn.v_proj", .kind = linear, .out = kv_width, .bias = Bias::always},
              {.role = Role::attention_output, .name = "model.decoder.layers.{}.self_attn.out_proj", .kind = linear, .out = hidden, .in = query_width, .bias = Bias::always},
              {.role = Role::attention_output_norm, .name = "model.decoder.layers.{}.self_attn_layer_norm", .kind = norm, .out = hidden, .bias = Bias::always, .unless = &ModelConfig::norms_before_sum},
              {.role = Role::ffn_norm, .name = "model.decoder.layers.{}.final_layer_norm", .kind = norm, .out = hidden, .bias = Bias::always, .only_if = &ModelConfig::norms_before_sum},
              {.role = Role::ffn_up, .name = "model.decoder.layers.{}.fc1", .kind = linear, .out = ffn, .bias = Bias::always},
              {.role = Role::ffn_down, .name = "model.decoder.layers.{}.fc2", .kind = linear, .out = hidden, .in = ffn, .bias = Bias::always},
              {.role = Role::ffn_output_norm, .name = "model.decoder.layers.{}.final_layer_norm", .kind = norm, .out = hidden, .bias = Bias::always, .unless = &ModelConfig::norms_before_sum},
              {.role = Role::final_norm, .name = "model.decoder.final_layer_norm", .kind = norm, .out = hidden, .bias = Bias::always, .only_if = &ModelConfig::norms_before_sum},
              {.role = Role::head_projection, .name = "model.decoder.project_out", .kind = linear, .out = token_width, .only_if = &ModelConfig::projects_embedding},
              {.role = Role::output_head, .name = "lm_head", .kind = linear, .out = vocabulary, .in = token_width},
          },
      .buffers = {R"(^(model\.)?decoder\.version$)"},
  };
}

}  // namespace llmc
