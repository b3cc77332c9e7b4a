// Owns what a model's config.json says about its maths, in the same words for every architecture.
#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <vector>

#include "model/rope.h"

namespace llmc {

struct Architecture;

enum class Norm { rms, layer };
/// `rounded_alibi` is Falcon's: in bfloat16, from the start of the sequence on, and divided like the scores.
enum class Positions { rope, learned, alibi, rounded_alibi };
enum class FeedForward { gated, plain };
enum class Activation { silu, gelu, gelu_tanh, relu };

/// Which rows a matrix that makes queries, keys and values has them in: all queries, all keys, all values; or by groups, the query
/// heads that share a key and value head, that key, that value.
enum class FusedOrder { parts, groups };

/// Sizes are counts of elements. One decoder block is: x += attention(norm(x)); x += feed_forward(norm(x)), where a norm may be
/// missing, and another one may follow the sublayer before its result is added; or after, x = norm(x + sublayer(x)).
struct ModelConfig {
  int64_t vocabulary = 0;
  int64_t hidden = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t embedding = 0;    ///< width of embeddings and of what the head reads, where projects_embedding
  int64_t ffn = 0;          ///< with experts: of all of them, and of the shared one, side by side
  int64_t context = 0;      ///< most positions the model was made for
  int64_t window = 0;       ///< most positions that a query sees, its own among them; 0: all before it
  std::vector<bool> windowed;  ///< by block: whether the window holds there; empty: in all
  int64_t position_offset = 0;  ///< rows of the table of learned positions in front of the first one
  double norm_epsilon = 0;
  double norm_offset = 0;      ///< added to what the file has as weights of norms
  double embedding_scale = 1;  ///< that embeddings of tokens are multiplied by
  double score_divisor = 0;    ///< attention scores are divided by its root; 0: by that of the head size
  double score_cap = 0;        ///< scores x become cap · tanh(x / cap); 0: they do not
  double logit_cap = 0;        ///< the same of logits
  Rope rope;                   ///< of rope positions
  Rope window_rope;            ///< the same in blocks where the window holds
  Norm norm = Norm::rms;
  Positions positions = Positions::rope;
  FeedForward feed_forward = FeedForward::gated;
  Activation activation = Activation::silu;
  bool tied_head = false;
  bool attention_bias = false;
  bool ffn_bias = false;
  bool norms_before_sum = true;     ///< false: a norm behind a sublayer is of the sum of what it gives and what it read
  bool projects_embedding = false;  ///< embeddings have another width than hidden states, and matrices lead from one to the other and back
  bool own_head_norms = false;  ///< StableLM's: each head of queries and keys has a norm of its own
  bool parallel = false;  ///< the feed-forward reads what attention reads: x += attention(norm(x)) + feed_forward(norm'(x))
  bool two_norms = false;  ///< Falcon's, in parallel: each sublayer has a norm; else both read what one gives
  FusedOrder fused_order = FusedOrder::parts;
  int64_t experts = 0;            ///< feed-forwards of which each token goes through a few; 0: there is one, for all tokens
  int64_t experts_per_token = 0;
  int64_t expert_ffn = 0;         ///< of each expert
  int64_t shared_ffn = 0;         ///< of the expert that all tokens go through; 0: there is none
  bool normalizes_routing = false;  ///< what a token's experts count for adds up to 1

  /// Tokens that a text may have: the context, or what scaled positions make of it (dynamic, yarn).
  int64_t longest_text() const;
  int64_t query_width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
  int64_t embedding_width() const { return projects_embedding ? embedding : hidden; }
  bool has_alibi() const { return positions == Positions::alibi || positions == Positions::rounded_alibi; }
  double score_scale() const { return 1 / std::sqrt(score_divisor > 0 ? score_divisor : static_cast<double>(head_dim)); }
  /// The config of one block: its window and its rotary positions are `window` and `rope`.
  ModelConfig at_block(int64_t block) const;
  /// The first row of a head in the matrix that makes queries, keys and values.
  int64_t fused_query(int64_t head) const;
  int64_t fused_key(int64_t kv_head) const;
  int64_t fused_value(int64_t kv_head) const;
  bool operator==(const ModelConfig&) const = default;
  /// The first position that a query at that one sees.
  int64_t first_seen(int64_t position) const { return window > 0 && position >= window ? position - window + 1 : 0; }
};

/// Reads config.json with the rows of its architecture. Throws Error(input) that names every field that is missing, out
/// of range, or not understood; `ignored` are unknown fields that the user vouches
/// for, those of nested objects as "rope_scaling.name".
ModelConfig read_config(const nlohmann::json& json, const Architecture& architecture, const std::set<std::string>& ignored, const std::string& where);

/// Why an unknown field is refused, and the flag that ignores it; `path` has a dot between an object and its field.
std::string describe_unknown_field(const std::string& path, const nlohmann::json& value);

/// What a config.json that does not name its activation means.
Activation default_activation(const Architecture& architecture);

std::string_view to_string(Norm norm);
std::string_view to_string(Positions positions);
std::string_view to_string(FeedForward feed_forward);
std::string_view to_string(Activation activation);

}  // namespace llmc
