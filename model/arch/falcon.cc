// Falcon (Almazrouei 2023), of 7 billion parameters and later ones: attention and feed-forward side by side behind one norm and with a
// single key and value head, or behind a norm each and with groups of heads.
#include "model/arch/list.h"

namespace llmc {

Architecture make_falcon() {
  using enum Dimension;
  using enum TensorKind;
  return {
      .model_type = "falcon",
      .causal_class = "FalconForCausalLM",
      .prefix = "transformer.",
      .activation_key = "activation",
      .activation_fallback = "gelu",
      .gguf = {.name = "falcon", .heads = GgufHeads::fill_hidden, .attention_bias = GgufBias::never, .mix = MixFamily::falcon},
      .norm = Norm::layer,
      .positions = Positions::rope,
      .feed_forward = FeedForward::plain,
      .fused_order = FusedOrder::groups,
      .kv_heads_only_if = &ModelConfig::two_norms,
      .config =
          {
              {.key = "vocab_size", .count = &ModelConfig::vocabulary},
              {.key = "hidden_size", .alias = "n_embed", .count = &ModelConfig::hidden},
              {.key = "ffn_hidden_size", .count = &ModelConfig::ffn, .fallback = 0},
              {.key = "num_hidden_layers", .alias = "n_layer", .count = &ModelConfig::layers},
              {.key = "num_attention_heads", .alias = "n_head", .count = &ModelConfig::heads},
              {.key = "num_kv_heads", .alias = "n_head_kv", .count = &ModelConfig::kv_heads, .fallback_count = &ModelConfig::heads},
              {.key = "max_position_embeddings", .count = &ModelConfig::context, .fallback = 2048},
              {.key = "layer_norm_epsilon", .number = &ModelConfig::norm_epsilon, .fallback = 1e-5},
              {.key = "tie_word_embeddings", .flag = &ModelConfig::tied_head, .fallback = 1},
              {.key = "bias", .flag = &ModelConfig::attention_bias, .fallback = 0},
              {.key = "parallel_attn", .flag = &ModelConfig::parallel, .fallback = 1},
              {.key = "new_decoder_architecture", .flag = &ModelConfig::two_norms, .fallback = 0},
          },
      .fixed = {{"alibi", "false"}, {"parallel_attn", "true"}, {"multi_query", "true"}, {"num_ln_in_parallel_attn", "2"}},
      .harmless = {"apply_residual_connection_post_layernorm", "attention_dropout", "hidden_dropout"},
      .tensors =
          {
              {.role = Role::token_embedding, .name = "transformer.word_embeddings", .kind = embedding, .out = vocabulary},
              {.role = Role::attention_norm, .name = "transformer.h.{}.input_layernorm", .kind = norm, .out = hidden, .bias = Bias::always, .unless = &ModelConfig::two_norms},
              {.role = Role::attention_norm, .name = "transformer.h.{}.ln_attn", .kind = norm, .out = hidden, .bias = Bias::always, .only_if = &ModelConfig::two_norms, .gguf_name = "blk.{}.attn_norm_2"},
              {.role = Role::query_key_value, .name = "transformer.h.{}.self_attention.query_key_value", .kind = linear, .out = query_key_value_width, .bias = Bias::if_attention_bias},
              {.role = Role::attention_output, .name = "transformer.h.{}.self_attention.dense", .kind = linear, .out = hidden, .in = query_width, .bias = Bias::if_attention_bias},
              {.role = Role::ffn_norm, .name = "transformer.h.{}.ln_mlp", .kind = norm, .out = hidden, .bias = Bias::always, .only_if = &ModelConfig::two_norms, .gguf_name = "blk.{}.attn_norm"},
              {.role = Role::ffn_up, .name = "transformer.h.{}.mlp.dense_h_to_4h", .kind = linear, .out = ffn, .bias = Bias::if_attention_bias},
              {.role = Role::ffn_down, .name = "transformer.h.{}.mlp.dense_4h_to_h", .kind = linear, .out = hidden, .in = ffn, .bias = Bias::if_attention_bias},
              {.role = Role::final_norm, .name = "transformer.ln_f", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::output_head, .name = "lm_head", .kind = linear, .out = vocabulary},
          },
      .buffers = {R"(^(transformer\.)?h\.\d+\.self_attention\.rotary_emb\.inv_freq$)"},
  };
}

}  // namespace llmc
