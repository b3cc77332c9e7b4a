// GPT-NeoX (Black 2022) and Pythia: attention and feed-forward side by side, one matrix for query, key and value with the three of
// each head together, a quarter of each head rotated.
#include "model/arch/list.h"

namespace llmc {

Architecture make_gpt_neox() {
  using enum Dimension;
  using enum TensorKind;
  return {
      .model_type = "gpt_neox",
      .causal_class = "GPTNeoXForCausalLM",
      .prefix = "gpt_neox.",
      .activation_key = "hidden_act",
      .activation_fallback = "gelu",
      .gguf = {.name = "gptneox", .heads = GgufHeads::fill_hidden, .head = GgufHead::own, .attention_bias = GgufBias::always},
      .norm = Norm::layer,
      .positions = Positions::rope,
      .feed_forward = FeedForward::plain,
      .fused_order = FusedOrder::groups,
      .rope_theta_key = "rotary_emb_base",
      .rotary_share_key = "rotary_pct",
      .rotary_share = 0.25,
      .config =
          {
              {.key = "vocab_size", .count = &ModelConfig::vocabulary},
              {.key = "hidden_size", .count = &ModelConfig::hidden},
              {.key = "intermediate_size", .count = &ModelConfig::ffn},
              {.key = "num_hidden_layers", .count = &ModelConfig::layers},
              {.key = "num_attention_heads", .count = &ModelConfig::heads},
              {.key = "max_position_embeddings", .count = &ModelConfig::context, .fallback = 2048},
              {.key = "layer_norm_eps", .number = &ModelConfig::norm_epsilon, .fallback = 1e-5},
              {.key = "tie_word_embeddings", .flag = &ModelConfig::tied_head, .fallback = 0},
              {.key = "attention_bias", .flag = &ModelConfig::attention_bias, .fallback = 1},
              {.key = "use_parallel_residual", .flag = &ModelConfig::parallel, .fallback = 1},
          },
      .fixed = {},
      .harmless = {"attention_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob", "classifier_dropout", "hidden_dropout", "num_steps"},
      .tensors =
          {
              {.role = Role::token_embedding, .name = "gpt_neox.embed_in", .kind = embedding, .out = vocabulary},
              {.role = Role::attention_norm, .name = "gpt_neox.layers.{}.input_layernorm", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::query_key_value, .name = "gpt_neox.layers.{}.attention.query_key_value", .kind = linear, .out = query_key_value_width, .bias = Bias::if_attention_bias},
              {.role = Role::attention_output, .name = "gpt_neox.layers.{}.attention.dense", .kind = linear, .out = hidden, .in = query_width, .bias = Bias::if_attention_bias},
              {.role = Role::ffn_norm, .name = "gpt_neox.layers.{}.post_attention_layernorm", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::ffn_up, .name = "gpt_neox.layers.{}.mlp.dense_h_to_4h", .kind = linear, .out = ffn, .bias = Bias::always},
              {.role = Role::ffn_down, .name = "gpt_neox.layers.{}.mlp.dense_4h_to_h", .kind = linear, .out = hidden, .in = ffn, .bias = Bias::always},
              {.role = Role::final_norm, .name = "gpt_neox.final_layer_norm", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::output_head, .name = "embed_out", .kind = linear, .out = vocabulary},
          },
      .buffers = {R"(^(gpt_neox\.)?layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$)"},
  };
}

}  // namespace llmc
