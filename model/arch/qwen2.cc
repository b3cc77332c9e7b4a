// Qwen2 (Yang 2024), Qwen2.5 and their like: Llama with biases on query, key and value.
#include "model/arch/list.h"
#include "model/arch/llama_family.h"

namespace llmc {

Architecture make_qwen2() {
  Architecture qwen = make_llama_family("qwen2", "Qwen2ForCausalLM", 32768);
  qwen.gguf = {.name = "qwen2", .heads = GgufHeads::fill_hidden, .large = GgufLarge::every};
  qwen.fixed = {{"use_sliding_window", "false"}, {"use_mrope", "false"}};
  qwen.fixed_by_block = {{"layer_types", "\"full_attention\""}};
  qwen.harmless = {"attention_dropout", "sliding_window", "max_window_layers", "dual_chunk_attention_config"};  // two say nothing without use_sliding_window, the last one nothing to transformers
  set_bias(qwen, {Role::query, Role::key, Role::value}, Bias::always);
  return qwen;
}

}  // namespace llmc
