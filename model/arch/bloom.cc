// BLOOM (Le Scao 2022): ALiBi, a norm of the embeddings, one matrix for query, key and value with the three of each head together.
#include "model/arch/list.h"

namespace llmc {

Architecture make_bloom() {
  using enum Dimension;
  using enum TensorKind;
  return {
      .model_type = "bloom",
      .causal_class = "BloomForCausalLM",
      .prefix = "transformer.",
      .activation_key = nullptr,
      .activation_fallback = "gelu_new",
      .gguf = {.name = "bloom", .heads = GgufHeads::fill_hidden},
      .norm = Norm::layer,
      .positions = Positions::alibi,
      .feed_forward = FeedForward::plain,
      .fused_order = FusedOrder::groups,
      .config =
          {
              {.key = "vocab_size", .count = &ModelConfig::vocabulary},
              {.key = "hidden_size", .alias = "n_embed", .count = &ModelConfig::hidden},
              {.key = "n_layer", .alias = "num_hidden_layers", .count = &ModelConfig::layers},
              {.key = "n_head", .alias = "num_attention_heads", .count = &ModelConfig::heads},
              {.key = "seq_length", .count = &ModelConfig::context, .fallback = 2048},
              {.key = "layer_norm_epsilon", .number = &ModelConfig::norm_epsilon, .fallback = 1e-5},
              {.key = "tie_word_embeddings", .flag = &ModelConfig::tied_head, .fallback = 1},
          },
      .fixed = {{"apply_residual_connection_post_layernorm", "false"}, {"n_inner", "null"}},
      .harmless = {"attention_dropout", "attention_softmax_in_fp32", "bias_dropout_fusion", "hidden_dropout", "masked_softmax_fusion", "offset_alibi", "pretraining_tp", "skip_bias_add", "skip_bias_add_qkv", "slow_but_exact"},  // how sums are cut and rounded
      .tensors =
          {
              {.role = Role::token_embedding, .name = "transformer.word_embeddings", .kind = embedding, .out = vocabulary},
              {.role = Role::embedding_norm, .name = "transformer.word_embeddings_layernorm", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::attention_norm, .name = "transformer.h.{}.input_layernorm", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::query_key_value, .name = "transformer.h.{}.self_attention.query_key_value", .kind = linear, .out = query_key_value_width, .bias = Bias::always},
              {.role = Role::attention_output, .name = "transformer.h.{}.self_attention.dense", .kind = linear, .out = hidden, .in = query_width, .bias = Bias::always},
              {.role = Role::ffn_norm, .name = "transformer.h.{}.post_attention_layernorm", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::ffn_up, .name = "transformer.h.{}.mlp.dense_h_to_4h", .kind = linear, .out = ffn, .bias = Bias::always},
              {.role = Role::ffn_down, .name = "transformer.h.{}.mlp.dense_4h_to_h", .kind = linear, .out = hidden, .in = ffn, .bias = Bias::always},
              {.role = Role::final_norm, .name = "transformer.ln_f", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::output_head, .name = "lm_head", .kind = linear, .out = vocabulary},
          },
      .buffers = {},
  };
}

}  // namespace llmc
