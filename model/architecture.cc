#include "model/architecture.h"

#include <array>

namespace llmc {

std::string_view to_string(Role role) {
  constexpr std::array names = {"token_embedding", "position_embedding", "attention_norm", "query", "key", "value", "query_key_value", "query_norm", "key_norm", "attention_output", "attention_output_norm", "ffn_norm", "ffn_gate", "ffn_up", "ffn_gate_up", "ffn_down", "ffn_output_norm", "router", "expert_gate", "expert_up", "expert_down", "shared_router", "shared_gate", "shared_up", "shared_down", "embedding_norm", "final_norm", "output_head", "embedding_projection", "head_projection"};
  return names[static_cast<size_t>(role)];
}

int64_t get_size(Dimension dimension, const ModelConfig& config) {
  switch (dimension) {
    case Dimension::hidden: return config.hidden;
    case Dimension::head: return config.head_dim;
    case Dimension::query_width: return config.query_width();
    case Dimension::kv_width: return config.kv_width();
    case Dimension::query_key_value_width: return config.query_width() + 2 * config.kv_width();
    case Dimension::ffn: return config.ffn;
    case Dimension::gate_up_width: return 2 * config.ffn;
    case Dimension::vocabulary: return config.vocabulary;
    case Dimension::context: return config.context + config.position_offset;
    case Dimension::token_width: return config.embedding_width();
    case Dimension::experts: return config.experts;
    case Dimension::expert_ffn: return config.expert_ffn;
    case Dimension::shared_ffn: return config.shared_ffn;
    case Dimension::one: return 1;
  }
  return 0;
}

}  // namespace llmc
