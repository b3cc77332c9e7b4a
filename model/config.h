// Owns what a model's config.json says about its maths, in the same words for every architecture.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>

#include "model/rope.h"

namespace llmc {

struct Architecture;

enum class Norm { rms, layer };
enum class Positions { rope, learned };
enum class FeedForward { gated, plain };
enum class Activation { silu, gelu, gelu_tanh, relu };

/// Sizes are counts of elements. One decoder block is: x += attention(norm(x)); x += feed_forward(norm(x)).
struct ModelConfig {
  int64_t vocabulary = 0;
  int64_t hidden = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t ffn = 0;
  int64_t context = 0;      ///< most positions the model was made for
  int64_t window = 0;       ///< most positions that a query sees, its own among them; 0: all before it
  double norm_epsilon = 0;
  Rope rope;                ///< of rope positions
  Norm norm = Norm::rms;
  Positions positions = Positions::rope;
  FeedForward feed_forward = FeedForward::gated;
  Activation activation = Activation::silu;
  bool tied_head = false;
  bool attention_bias = false;
  bool ffn_bias = false;

  int64_t query_width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
  /// The first position that a query at that one sees.
  int64_t first_seen(int64_t position) const { return window > 0 && position >= window ? position - window + 1 : 0; }
};

/// Reads config.json with the rows of its architecture. Throws Error(input) that names every field that is missing, out
/// of range, or not understood; `ignored` are unknown fields that the user vouches for.
ModelConfig read_config(const nlohmann::json& json, const Architecture& architecture, const std::set<std::string>& ignored, const std::string& where);

/// What a config.json that does not name its activation means.
Activation default_activation(const Architecture& architecture);

std::string_view to_string(Norm norm);
std::string_view to_string(Positions positions);
std::string_view to_string(FeedForward feed_forward);
std::string_view to_string(Activation activation);

}  // namespace llmc
