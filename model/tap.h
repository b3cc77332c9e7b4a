// Owns the places in a decoder block where the inputs of linear layers can be watched.
#pragma once

#include <array>
#include <optional>
#include <string_view>

#include "model/architecture.h"

namespace llmc {

/// The input that a set of linear layers shares, in the order in which a block computes them.
enum class Tap {
  attention_input,   ///< [T, hidden]: of query, key, value (or the fused three)
  attention_context, ///< [T, query_width]: of attention_output
  ffn_input,         ///< [T, hidden]: of ffn_gate and ffn_up
  ffn_activation,    ///< [T, ffn]: of ffn_down
};
inline constexpr std::array all_taps = {Tap::attention_input, Tap::attention_context, Tap::ffn_input, Tap::ffn_activation};

std::string_view to_string(Tap tap);
/// The tap that feeds a linear role; nothing for other roles.
std::optional<Tap> find_tap(Role role);
/// Columns of the input at a tap.
int64_t get_width(Tap tap, const ModelConfig& config);

}  // namespace llmc
