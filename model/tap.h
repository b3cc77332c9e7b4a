// Owns the places in a decoder block where the inputs of linear layers can be watched.
#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <vector>

#include "model/architecture.h"

namespace llmc {

/// The input that a set of linear layers shares, in the order in which a block computes them.
enum class Tap {
  attention_input,   ///< [T, hidden]: of query, key, value (or the fused three)
  attention_context, ///< [T, query_width]: of attention_output
  ffn_input,         ///< [T, hidden]: of ffn_gate and ffn_up
  ffn_activation,    ///< [T, ffn]: of ffn_down
};
// With experts, ffn_input is that of all of them, whichever a token goes to, and ffn_activation holds those of expert 0, 1, …, and of
// the shared one, side by side, multiplied by what the expert counts for; zeros where a token does not go.
inline constexpr std::array all_taps = {Tap::attention_input, Tap::attention_context, Tap::ffn_input, Tap::ffn_activation};

std::string_view to_string(Tap tap);
/// The tap that feeds a linear role; nothing for other roles.
std::optional<Tap> find_tap(Role role);
/// Columns of the input at a tap.
int64_t get_width(Tap tap, const ModelConfig& config);

/// Columns of a tap that layers read without the others: what each expert has made.
struct TapPart {
  int64_t number = 0;  ///< of the expert; shared_part; 0 where there is only one part
  int64_t first = 0;
  int64_t count = 0;
};
inline constexpr int64_t shared_part = -1;
/// One for each expert, and for the shared one, at ffn_activation; else one, of all columns.
std::vector<TapPart> list_parts(Tap tap, const ModelConfig& config);
/// The number of the part that a layer reads, of an expert (`expert`) or another.
int64_t find_part(Role role, int64_t expert);

}  // namespace llmc
