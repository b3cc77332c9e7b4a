// Owns architectures as rows of data: config keys to fields, tensor names to roles and shapes, behaviour as enums.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf_mix.h"
#include "model/config.h"

namespace llmc {

class FieldReader;

/// What a tensor does in the model.
enum class Role {
  token_embedding,
  position_embedding,
  attention_norm,
  query,
  key,
  value,
  query_key_value,  ///< the three in one matrix, in this order along the output
  query_norm,       ///< of each head, the same for all or its own (TensorRow::each), or of all heads together
  key_norm,
  attention_output,
  attention_output_norm,  ///< of what attention adds
  ffn_norm,
  ffn_gate,
  ffn_up,
  ffn_gate_up,  ///< the two in one matrix, in this order along the output
  ffn_down,
  ffn_output_norm,  ///< of what the feed-forward adds
  router,           ///< which experts a token goes through, and what each of them counts for
  expert_gate,      ///< of each expert, and the next two
  expert_up,
  expert_down,
  shared_router,  ///< what the expert that all tokens go through counts for
  shared_gate,
  shared_up,
  shared_down,
  embedding_norm,
  final_norm,
  output_head,
  embedding_projection,  ///< from embeddings to hidden states
  head_projection,       ///< from hidden states to what the head reads
};
std::string_view to_string(Role role);

/// A size in terms of the config.
enum class Dimension { hidden, head, query_width, kv_width, query_key_value_width, ffn, gate_up_width, vocabulary, context, token_width, experts, expert_ffn, shared_ffn, one };
int64_t get_size(Dimension dimension, const ModelConfig& config);

enum class TensorKind {
  embedding,  ///< weight [out, in]: one row per token or position
  linear,     ///< weight [out, in]
  conv1d,     ///< weight [in, out] in the file: GPT-2's transposed linear
  norm,       ///< weight [out]
  router,     ///< weight [out, in], which stays as it is: what it decides is not a matter of degree
};

enum class Bias { never, always, if_attention_bias, if_ffn_bias };

struct TensorRow {
  Role role;
  const char* name;  ///< without .weight or .bias; {} is the number of the block, a second one that of the expert or head
  TensorKind kind;
  Dimension out;
  Dimension in = Dimension::hidden;  ///< of linear, conv1d and embedding
  Bias bias = Bias::never;
  bool ModelConfig::* only_if = nullptr;  ///< a field without which the tensor is not there
  bool ModelConfig::* unless = nullptr;   ///< a field with which it is not there
  int64_t ModelConfig::* each = nullptr;  ///< heads, of which each has one of its own
  const char* gguf_name = nullptr;        ///< in GGUF files, {} as above; none: that of its role
};

inline bool is_there(const TensorRow& row, const ModelConfig& config) { return (!row.only_if || config.*row.only_if) && !(row.unless && config.*row.unless); }
/// Whether each expert has one.
inline bool is_of_each_expert(Role role) { return role == Role::expert_gate || role == Role::expert_up || role == Role::expert_down; }
/// Outside the blocks.
inline bool is_outer(const TensorRow& row) { return std::string_view(row.name).find("{}") == std::string_view::npos; }

/// A norm of the hidden states, not of single heads.
inline bool is_hidden_norm(const TensorRow& row) { return row.kind == TensorKind::norm && row.out == Dimension::hidden; }

/// A config key that fills a field. Exactly one of the three member pointers is set.
struct ConfigRow {
  const char* key;
  const char* alias = nullptr;  ///< another key for the same
  int64_t ModelConfig::* count = nullptr;  ///< must be positive
  double ModelConfig::* number = nullptr;  ///< must be finite and positive
  bool ModelConfig::* flag = nullptr;
  int64_t ModelConfig::* fallback_count = nullptr;  ///< field to copy when the key is absent
  std::optional<double> fallback;                   ///< value when the key is absent
  std::optional<double> null = {};                  ///< value of a null count or number; else it means the same as absent
};

/// A config key that must have this value (as JSON text) when it is there: llmc implements no other.
struct FixedRow {
  const char* key;
  const char* json;
};

/// What the chosen experts' shares of a token add up to: 1, or what the softmax over all experts gave them, or as a field says.
enum class Routing { normalized, as_configured };

/// How GGUF files order the rows of a head's query and key: the two halves that rotary positions pair one behind the other,
/// as Hugging Face has them, or the two of each pair side by side.
enum class GgufRotary { halves, pairs };

/// What llama.cpp loads: heads of any size, or only those that together are as wide as the hidden state.
enum class GgufHeads { any, fill_hidden };
/// Which heads over the vocabulary: both kinds, only the embedding's matrix, or only one of their own.
enum class GgufHead { either, tied, own };
/// Which biases of attention.
enum class GgufBias { either, never, always };
/// What it makes of a window: has no key for it; reads its width and goes on without; keeps to it; cannot do without.
enum class GgufWindow { none, ignored, kept, always };
/// Which bounds it knows: none, one of logits where the file says so, or always both, of scores and of logits.
enum class GgufCaps { none, logits, both };

/// How GGUF files hold an architecture, and which models of it llama.cpp runs (its llama-model.cpp and models/). Norms always
/// have their offset added to their weights there.
struct GgufArchitecture {
  const char* name = nullptr;  ///< general.architecture; llama.cpp runs it with the activation that is the fallback, any GELU by its tanh approximation; none: it has no such
  GgufRotary rotary = GgufRotary::halves;
  bool rope_factors = false;  ///< it reads a tensor that divides rotary frequencies, which says llama3's scaling
  GgufHeads heads = GgufHeads::any;
  GgufHead head = GgufHead::either;
  GgufBias attention_bias = GgufBias::either;
  GgufWindow window = GgufWindow::none;
  GgufCaps caps = GgufCaps::none;
  bool parallel_only = false;  ///< it runs attention and feed-forward side by side, whatever the file says
  int64_t wide_scores = 0;  ///< with so many blocks scores are divided by the root of hidden size over heads, else by that of the head size
  GgufLarge large = GgufLarge::none;
  MixFamily mix = MixFamily::usual;
};

struct Architecture {
  const char* model_type;    ///< as config.json says
  const char* causal_class;  ///< the transformers class
  const char* prefix;        ///< of every tensor but the head; checkpoints of the bare model lack it
  const char* activation_key;  ///< none: always the next
  const char* activation_fallback;
  GgufArchitecture gguf = {};
  Norm norm;
  Positions positions;
  FeedForward feed_forward;
  FusedOrder fused_order = FusedOrder::parts;
  int64_t position_offset = 0;
  double norm_offset = 0;
  double norm_epsilon = 0;        ///< where no config key says it
  bool scales_embedding = false;  ///< by the root of the hidden size
  int64_t window_period = 0;      ///< the window holds in all but every so-many-th block, unless layer_types says otherwise; 0: in all
  const char* window_period_key = nullptr;
  double rope_theta = 10000;              ///< where the config does not say
  const char* rope_theta_key = "rope_theta";
  std::optional<double> window_theta = {};  ///< of blocks where the window holds, where the config does not say; none: they are like the others
  bool longrope_only = false;               ///< the transformers class knows no rope type but default and longrope, which it also calls su and yarn
  const char* rotary_share_key = "partial_rotary_factor";
  std::optional<double> rotary_share = {};  ///< of a head's values that are rotated where the config does not say; none: always all
  Routing routing = Routing::as_configured;
  bool heads_divide_hidden = false;  ///< the transformers class refuses a hidden size that is no multiple of the number of heads
  std::vector<ConfigRow> config;
  void (*read_more)(FieldReader& fields, ModelConfig& config) = nullptr;        ///< what rows cannot say, after they were read
  void (*gguf_more)(const ModelConfig& facts, nlohmann::json& config) = nullptr;  ///< the same of a GGUF file: config keys from what it says
  std::vector<FixedRow> fixed;
  std::vector<FixedRow> fixed_by_block = {};  ///< config keys of lists with an entry for each block, which must all have this value
  std::vector<const char*> harmless;  ///< config keys that do not change the forward pass
  std::vector<TensorRow> tensors;
  std::vector<const char*> buffers;  ///< patterns of stored tensors that are constants of the code, not weights
};

/// All architectures; model/arch/list.cc names them.
std::span<const Architecture> architecture_list();
/// Throws Error(input) that lists the known ones.
const Architecture& get_architecture(const std::string& model_type, const std::string& where);

}  // namespace llmc
