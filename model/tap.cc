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
    case Role::ffn_gate_up:
    case Role::expert_gate:
    case Role::expert_up:
    case Role::shared_gate:
    case Role::shared_up: return Tap::ffn_input;
    case Role::ffn_down:
    case Role::expert_down:
    case Role::shared_down: return Tap::ffn_activation;
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

std::vector<TapPart> list_parts(Tap tap, const ModelConfig& config) {
  if (tap != Tap::ffn_activation || config.experts == 0) return {{.number = 0, .first = 0, .count = get_width(tap, config)}};
  std::vector<TapPart> parts;
  for (int64_t expert = 0; expert < config.experts; ++expert) parts.push_back({.number = expert, .first = expert * config.expert_ffn, .count = config.expert_ffn});
  if (config.shared_ffn > 0) parts.push_back({.number = shared_part, .first = config.experts * config.expert_ffn, .count = config.shared_ffn});
  return parts;
}

int64_t find_part(Role role, int64_t expert) { return role == Role::expert_down ? expert : role == Role::shared_down ? shared_part : 0; }

}  // namespace llmc
