// Gemma (Mesnard 2024), Gemma 2 (Riviere 2024) and the text models of Gemma 3 (Kamath 2025): Llama with norms around 1, scaled
// embeddings and GELU; then soft caps, windows in some blocks and norms on both sides of a sublayer; then norms of heads and two
// bases of rotary positions.
#include "model/arch/list.h"
#include "model/arch/llama_family.h"

namespace llmc {

Architecture make_gemma() {
  Architecture gemma = make_llama_family("gemma", "GemmaForCausalLM", 8192);
  gemma.gguf = {.name = "gemma", .head = GgufHead::tied, .attention_bias = GgufBias::never};
  gemma.activation_fallback = "gelu_pytorch_tanh";
  gemma.norm_offset = 1;
  gemma.scales_embedding = true;
  get_config_row(gemma, "head_dim").fallback = 256;
  get_config_row(gemma, "tie_word_embeddings").fallback = 1;
  gemma.config.push_back({.key = "attention_bias", .flag = &ModelConfig::attention_bias, .fallback = 0});
  gemma.fixed = {{"use_bidirectional_attention", "false"}, {"hidden_activation", "\"gelu_pytorch_tanh\""}};
  set_bias(gemma, {Role::query, Role::key, Role::value, Role::attention_output}, Bias::if_attention_bias);
  return gemma;
}

Architecture make_gemma2() {
  using enum Dimension;
  using enum TensorKind;
  Architecture gemma = make_gemma();
  gemma.model_type = "gemma2";
  gemma.causal_class = "Gemma2ForCausalLM";
  gemma.gguf = {.name = "gemma2", .head = GgufHead::tied, .attention_bias = GgufBias::never, .window = GgufWindow::always, .caps = GgufCaps::both, .wide_scores = 46};
  gemma.activation_key = "hidden_activation";
  gemma.heads_divide_hidden = true;
  gemma.window_period = 2;
  gemma.config.push_back({.key = "sliding_window", .count = &ModelConfig::window, .fallback = 4096, .null = 0});
  gemma.config.push_back({.key = "query_pre_attn_scalar", .number = &ModelConfig::score_divisor, .fallback = 256});
  gemma.config.push_back({.key = "attn_logit_softcapping", .number = &ModelConfig::score_cap, .fallback = 50, .null = 0});
  gemma.config.push_back({.key = "final_logit_softcapping", .number = &ModelConfig::logit_cap, .fallback = 30, .null = 0});
  gemma.fixed = {{"use_bidirectional_attention", "false"}};
  gemma.harmless = {"attention_dropout", "cache_implementation", "hidden_act", "sliding_window_size"};  // transformers reads the activation from hidden_activation
  get_tensor_row(gemma, Role::ffn_norm).name = "model.layers.{}.pre_feedforward_layernorm";
  insert_after(gemma, Role::attention_output, {{.role = Role::attention_output_norm, .name = "model.layers.{}.post_attention_layernorm", .kind = norm, .out = hidden}});
  insert_after(gemma, Role::ffn_down, {{.role = Role::ffn_output_norm, .name = "model.layers.{}.post_feedforward_layernorm", .kind = norm, .out = hidden}});
  return gemma;
}

Architecture make_gemma3() {
  using enum Dimension;
  using enum TensorKind;
  Architecture gemma = make_gemma2();
  gemma.model_type = "gemma3_text";
  gemma.causal_class = "Gemma3ForCausalLM";
  gemma.gguf = {.name = "gemma3", .attention_bias = GgufBias::never, .window = GgufWindow::kept, .caps = GgufCaps::logits, .wide_scores = 62};
  gemma.window_period = 6;
  gemma.window_period_key = "sliding_window_pattern";
  gemma.rope_theta = 1000000;
  gemma.window_theta = 10000;
  get_config_row(gemma, "max_position_embeddings").fallback = 131072;
  get_config_row(gemma, "attn_logit_softcapping").fallback = 0;
  get_config_row(gemma, "final_logit_softcapping").fallback = 0;
  gemma.harmless.push_back("_sliding_window_pattern");
  insert_after(gemma, Role::value, {{.role = Role::query_norm, .name = "model.layers.{}.self_attn.q_norm", .kind = norm, .out = head}, {.role = Role::key_norm, .name = "model.layers.{}.self_attn.k_norm", .kind = norm, .out = head}});
  return gemma;
}

}  // namespace llmc
