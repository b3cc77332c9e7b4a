// OPT (Zhang 2022): LayerNorm, learned positions with two rows in front of the first, ReLU.
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
              {.key = "ffn_dim", .count = &ModelConfig::ffn},
              {.key = "num_hidden_layers", .count = &ModelConfig::layers},
              {.key = "num_attention_heads", .count = &ModelConfig::heads},
              {.key = "max_position_embeddings", .count = &ModelConfig::context, .fallback = 2048},
              {.key = "tie_word_embeddings", .flag = &ModelConfig::tied_head, .fallback = 1},
          },
      .fixed = {{"do_layer_norm_before", "true"}, {"_remove_final_layer_norm", "false"}, {"enable_bias", "true"}, {"layer_norm_elementwise_affine", "true"}},
      .same = {{"word_embed_proj_dim", &ModelConfig::hidden}},
      .harmless = {"activation_dropout", "attention_dropout", "dropout", "init_std", "layerdrop"},
      .tensors =
          {
              {.role = Role::token_embedding, .name = "model.decoder.embed_tokens", .kind = embedding, .out = vocabulary},
              {.role = Role::position_embedding, .name = "model.decoder.embed_positions", .kind = embedding, .out = context},
              {.role = Role::attention_norm, .name = "model.decoder.layers.{}.self_attn_layer_norm", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::query, .name = "model.decoder.layers.{}.self_attn.q_proj", .kind = linear, .out = query_width, .bias = Bias::always},
              {.role = Role::key, .name = "model.decoder.layers.{}.self_attn.k_proj", .kind = linear, .out = kv_width, .bias = Bias::always},
              {.role = Role::value, .name = "model.decoder.layers.{}.self_attn.v_proj", .kind = linear, .out = kv_width, .bias = Bias::always},
              {.role = Role::attention_output, .name = "model.decoder.layers.{}.self_attn.out_proj", .kind = linear, .out = hidden, .in = query_width, .bias = Bias::always},
              {.role = Role::ffn_norm, .name = "model.decoder.layers.{}.final_layer_norm", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::ffn_up, .name = "model.decoder.layers.{}.fc1", .kind = linear, .out = ffn, .bias = Bias::always},
              {.role = Role::ffn_down, .name = "model.decoder.layers.{}.fc2", .kind = linear, .out = hidden, .in = ffn, .bias = Bias::always},
              {.role = Role::final_norm, .name = "model.decoder.final_layer_norm", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::output_head, .name = "lm_head", .kind = linear, .out = vocabulary},
          },
      .buffers = {},
  };
}

}  // namespace llmc
