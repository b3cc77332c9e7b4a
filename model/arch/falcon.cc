// Falcon (Almazrouei 2023): attention and feed-forward side by side, behind one norm and with a single key and value head or behind a
// norm each and with groups of heads; the first ones, of refined web text alone, with ALiBi and one sublayer behind the other.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "model/arch/list.h"

namespace llmc {
namespace {

/// Which fields another one makes meaningless. Until here `two_norms` says new_decoder_architecture.
void read_falcon(FieldReader& fields, ModelConfig& config) {
  const bool is_grouped = config.two_norms;
  const bool shares_head = fields.find_bool("multi_query").value_or(true);
  const int64_t norms = fields.find_int("num_ln_in_parallel_attn").value_or(is_grouped ? 2 : 1);
  if (fields.find_bool("alibi").value_or(false)) config.positions = Positions::rounded_alibi;
  if (is_grouped && !config.parallel) throw Error(ErrorKind::input, "field \"parallel_attn\": expected true with new_decoder_architecture (transformers runs no other), found false");
  if (config.parallel && norms != 1 && !(norms == 2 && is_grouped)) throw Error(ErrorKind::input, fmt::format("field \"num_ln_in_parallel_attn\": expected 1{}, found {}", is_grouped ? " or 2" : " without new_decoder_architecture", norms));
  config.two_norms = is_grouped && norms == 2;
  if (is_grouped) return;
  if (shares_head) config.kv_heads = 1;
  if (!shares_head && config.kv_heads != config.heads) throw Error(ErrorKind::input, fmt::format("field \"num_kv_heads\": expected {}, as many as heads, without multi_query and new_decoder_architecture, found {}", config.heads, config.kv_heads));
}

/// Groups of heads behind one norm.
void complete_gguf_falcon(const ModelConfig& facts, nlohmann::json& config) {
  if (facts.two_norms || facts.kv_heads <= 1) return;
  config["new_decoder_architecture"] = true;
  config["num_ln_in_parallel_attn"] = 1;
}

}  // namespace

Architecture make_falcon() {
  using enum Dimension;
  using enum TensorKind;
  return {
      .model_type = "falcon",
      .causal_class = "FalconForCausalLM",
      .prefix = "transformer.",
      .activation_key = "activation",
      .activation_fallback = "gelu",
      .gguf = {.name = "falcon", .heads = GgufHeads::fill_hidden, .attention_bias = GgufBias::never, .parallel_only = true, .mix = MixFamily::falcon},
      .norm = Norm::layer,
      .positions = Positions::rope,
      .feed_forward = FeedForward::plain,
      .fused_order = FusedOrder::groups,
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
      .read_more = read_falcon,
      .gguf_more = complete_gguf_falcon,
      .fixed = {},
      .harmless = {"ff_factor", "apply_residual_connection_post_layernorm", "attention_dropout", "hidden_dropout"},
      .tensors =
          {
              {.role = Role::token_embedding, .name = "transformer.word_embeddings", .kind = embedding, .out = vocabulary},
              {.role = Role::attention_norm, .name = "transformer.h.{}.input_layernorm", .kind = norm, .out = hidden, .bias = Bias::always, .unless = &ModelConfig::two_norms},
              {.role = Role::attention_norm, .name = "transformer.h.{}.ln_attn", .kind = norm, .out = hidden, .bias = Bias::always, .only_if = &ModelConfig::two_norms, .gguf_name = "blk.{}.attn_norm_2"},
              {.role = Role::query_key_value, .name = "transformer.h.{}.self_attention.query_key_value", .kind = linear, .out = query_key_value_width, .bias = Bias::if_attention_bias},
              {.role = Role::attention_output, .name = "transformer.h.{}.self_attention.dense", .kind = linear, .out = hidden, .in = query_width, .bias = Bias::if_attention_bias},
              {.role = Role::ffn_norm, .name = "transformer.h.{}.post_attention_layernorm", .kind = norm, .out = hidden, .bias = Bias::always, .unless = &ModelConfig::parallel},
              {.role = Role::ffn_norm, .name = "transformer.h.{}.ln_mlp", .kind = norm, .out = hidden, .bias = Bias::always, .only_if = &ModelConfig::two_norms, .gguf_name = "blk.{}.attn_norm"},
              {.role = Role::ffn_up, .name = "transformer.h.{}.mlp.dense_h_to_4h", .kind = linear, .out = ffn, .bias = Bias::if_attention_bias},
              {.role = Role::ffn_down, .name = "transformer.h.{}.mlp.dense_4h_to_h", .kind = linear, .out = hidden, .in = ffn, .bias = Bias::if_attention_bias},
              {.role = Role::final_norm, .name = "transformer.ln_f", .kind = norm, .out = hidden, .bias = Bias::always},
              {.role = Role::output_head, .name = "lm_head", .kind = linear, .out = vocabulary},
          },
      .buffers = {R"(^(transformer\.)?h\.\d+\.self_attention\.(maybe_)?rotary(_emb)?\.inv_freq$)"},
  };
}

}  // namespace llmc
