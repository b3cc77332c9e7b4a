#include "model/tap.h"

namespace llmc {

std::string_view to_string(Tap tap) {
  switch (tap) {
    case Tap::attention_input: return "attention_input";
    case Tap::attention_context: return "attention_context";
    case Tap::ffn_input: return "ffn_input";
    case Tap::ffn_activation: return "ffn_activation";
  }
  return "?";
}

std::optional<Tap> find_tap(Role role) {
  switch (role) {
    case Role::query:
    case Role::key:
    case Role::value:
    case Role::query_key_value: return Tap::attention_input;
    case Role::attention_output: return Tap::attention_context;
    case Role::ffn_gate:
    case Role::ffn_up:
    case Role::ffn_gate_up: return Tap::ffn_input;
    case Role::ffn_down: return Tap::ffn_activation;
    default: return std::nullopt;
  }
}

int64_t get_width(Tap tap, const ModelConfig& config) {
  switch (tap) {
    case Tap::attention_input:
    case Tap::ffn_input: return config.hidden;
    case Tap::attention_context: return config.query_width();
    case Tap::ffn_activation: return config.ffn;
  }
  return 0;
}

}  // namespace llmc
