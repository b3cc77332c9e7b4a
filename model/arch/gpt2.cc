// GPT-2 (Radford 2019): LayerNorm, learned positions, one matrix for query, key and value, plain feed-forward.
#include "model/arch/list.h"

namespace llmc {

Architecture make_gpt2() {
  using enum Dimension;
  using enum TensorKind;
  return {
      .model_type = "gpt2",
      .causal_class = "GPT2LMHeadModel",
      .prefix = "transformer.",
      .activation_key = "activation_function",
      .activation_fallback = "gelu_new",
      .gguf = {.name = "gpt2"},
      .norm = Norm::layer,
      .positions = Positions::learned,
      .feed_forward = FeedForward::plain,
      .config =
          {
              {.key = "vocab_size", .count = &ModelConfig::vocabulary},
              {.key = "n_embd", .count = &ModelConfig::hidden},
              {.key = "n_layer", .count = &ModelConfig::layers},
              {.key = "n_head", .count = &ModelConfig::heads},
              {.key = "n_positions", .count = &ModelConfig::context},
              {.key = "n_inner", .count = &ModelConfig::ffn, .fallback = 0},
              {.key = "layer_norm_epsilon", .number = &ModelConfig::norm_epsilon, .fallback = 1e-5},
              {.key = "tie_word_embeddings", .flag = &ModelConfig::tied_head, .fallback = 1},
          },
      .fixed = {{"scale_attn_weights", "true"}, {"scale_attn_by_inverse_layer_idx", "false"}, {"add_cross_attention", "false"}},
      .harmless = {"apply_query_key_layer_scaling", "normalize_attention_scores", "n_ctx", "n_special", "predict_special_tokens", "attn_pdrop", "embd_pdrop", "resid_pdrop", "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"},
      .tensors =
          {
              {.role = Role::token_embedding, .name = "transformer.wte", .kind = embedding, .out = vocabulary},
              {.role = Role::position_embedding, .name = "transformer.wpe", .kind = embedding, .out = context},
              {.role = Role::attention_norm, .name = "transformer.h.{}.ln_1", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::query_key_value, .name = "transformer.h.{}.attn.c_attn", .kind = conv1d, .out = query_key_value_width, .bias = Bias::always},
              {.role = Role::attention_output, .name = "transformer.h.{}.attn.c_proj", .kind = conv1d, .out = hidden, .in = query_width, .bias = Bias::always},
              {.role = Role::ffn_norm, .name = "transformer.h.{}.ln_2", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::ffn_up, .name = "transformer.h.{}.mlp.c_fc", .kind = conv1d, .out = ffn, .bias = Bias::always},
              {.role = Role::ffn_down, .name = "transformer.h.{}.mlp.c_proj", .kind = conv1d, .out = hidden, .in = ffn, .bias = Bias::always},
              {.role = Role::final_norm, .name = "transformer.ln_f", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::output_head, .name = "lm_head", .kind = linear, .out = vocabulary},
          },
      .buffers = {R"(^(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)$)"},
  };
}

}  // namespace llmc
