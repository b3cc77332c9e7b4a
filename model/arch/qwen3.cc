// Qwen3 (Yang 2025): Llama with a norm of each head of queries and keys.
#include "model/arch/list.h"
#include "model/arch/llama_family.h"

namespace llmc {

Architecture make_qwen3() {
  Architecture qwen = make_llama_family("qwen3", "Qwen3ForCausalLM", 32768);
  qwen.gguf = {.name = "qwen3"};
  get_config_row(qwen, "head_dim").fallback = 128;
  qwen.fixed = {{"attention_bias", "false"}, {"use_sliding_window", "false"}};
  qwen.fixed_by_block = {{"layer_types", "\"full_attention\""}};
  qwen.harmless = {"attention_dropout", "sliding_window", "max_window_layers"};  // the last two say nothing without use_sliding_window
  insert_after(qwen, Role::value, {{.role = Role::query_norm, .name = "model.layers.{}.self_attn.q_norm", .kind = TensorKind::norm, .out = Dimension::head}, {.role = Role::key_norm, .name = "model.layers.{}.self_attn.k_norm", .kind = TensorKind::norm, .out = Dimension::head}});
  return qwen;
}

}  // namespace llmc
