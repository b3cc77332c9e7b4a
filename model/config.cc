#include "model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/shown.h"
#include "model/architecture.h"
#include "model/rope_config.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr int64_t most_blocks = 1 << 16;  ///< that a list is made for
constexpr int64_t most_elements_per_dimension = int64_t{1} << 31;

/// Keys that any transformers config may carry and that do not change the forward pass: those of its own, and those that other tools leave
/// there and none of its classes reads (auto_map names code of the model's authors, which is not run).
constexpr std::array harmless_everywhere = {
    "_attn_implementation", "_attn_implementation_autoset", "_flash_attn_2_enabled", "_name_or_path", "_num_labels", "architectures", "attn_implementation", "auto_map", "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward", "cls_token_id", "custom_pipelines", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "id2label", "initializer_range", "is_llama_config", "label2id", "length_penalty", "max_length", "max_sequence_length", "min_length", "model_max_length", "model_type", "neftune_noise_alpha", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels", "num_return_sequences", "onnx", "output_attentions", "output_hidden_states", "output_past", "output_scores", "pad_token_id", "prefix", "problem_type", "quantization_config", "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers.js_config", "transformers_version", "typical_p", "unk_token_id", "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache"};

/// Keys that any transformers config may carry and that must have this value.
constexpr std::array fixed_everywhere = {FixedRow{"is_encoder_decoder", "false"}, FixedRow{"is_decoder", "false"}, FixedRow{"add_cross_attention", "false"}, FixedRow{"pruned_heads", "{}"}, FixedRow{"cross_attention_hidden_size", "null"}, FixedRow{"tie_encoder_decoder", "false"}};

void read_row(const ConfigRow& as_listed, FieldReader& fields, ModelConfig& config) {
  ConfigRow row = as_listed;
  if (const json* other = row.alias ? fields.find(row.alias) : nullptr) {
    const json* value = fields.find(row.key);
    if (value && *value != *other) throw Error(ErrorKind::input, fmt::format("field \"{}\": {} is {}; expected the same", row.alias, row.key, value->dump()));
    row.key = row.alias;
  }
  if (row.flag) {
    const auto value = fields.find_bool(row.key);
    if (!value && !row.fallback) throw Error(ErrorKind::input, fmt::format("field \"{}\" is missing", row.key));
    config.*row.flag = value.value_or(row.fallback.value_or(0) != 0);
  } else if (row.number) {
    const auto value = fields.find_number(row.key);
    const auto otherwise = row.null && fields.is_null(row.key) ? row.null : row.fallback;
    if (!value && !otherwise) throw Error(ErrorKind::input, fmt::format("field \"{}\" is missing", row.key));
    config.*row.number = value.value_or(otherwise.value_or(0));
    if (value && (!std::isfinite(*value) || *value <= 0)) throw Error(ErrorKind::input, fmt::format("field \"{}\": expected a positive number, found {}", row.key, config.*row.number));
  } else {
    const auto value = fields.find_int(row.key);
    if (value) {
      if (*value < 1 || *value >= most_elements_per_dimension) throw Error(ErrorKind::input, fmt::format("field \"{}\": expected 1 to {}, found {}", row.key, most_elements_per_dimension - 1, *value));
      config.*row.count = *value;
    } else if (row.null && fields.is_null(row.key)) {
      config.*row.count = static_cast<int64_t>(*row.null);
    } else if (row.fallback_count) {
      config.*row.count = config.*row.fallback_count;
    } else if (row.fallback) {
      config.*row.count = static_cast<int64_t>(*row.fallback);
    } else {
      throw Error(ErrorKind::input, fmt::format("field \"{}\" is missing", row.key));
    }
  }
}

std::optional<Activation> find_activation(std::string_view value) {
  constexpr std::pair<const char*, Activation> names[] = {{"silu", Activation::silu}, {"swish", Activation::silu}, {"gelu", Activation::gelu}, {"gelu_new", Activation::gelu_tanh}, {"gelu_fast", Activation::gelu_tanh}, {"gelu_pytorch_tanh", Activation::gelu_tanh}, {"relu", Activation::relu}};
  for (const auto& [name, activation] : names)
    if (value == name) return activation;
  return std::nullopt;
}

Activation read_activation(FieldReader& fields, const Architecture& architecture) {
  if (!architecture.activation_key) return default_activation(architecture);
  const std::string value = fields.find_string(architecture.activation_key).value_or(architecture.activation_fallback);
  if (const auto activation = find_activation(value)) return *activation;
  throw Error(ErrorKind::input, fmt::format("field \"{}\": activation \"{}\" is not supported", architecture.activation_key, value));
}

void check_fixed(const FixedRow& row, FieldReader& fields) {
  const json* value = fields.find(row.key);
  if (value && *value != json::parse(row.json)) throw Error(ErrorKind::input, fmt::format("field \"{}\": expected {} (llmc implements no other), found {}", row.key, row.json, shown(value->dump())));
}

/// A list with an entry for each block.
void check_fixed_by_block(const FixedRow& row, FieldReader& fields, int64_t blocks) {
  const json* list = fields.find(row.key);
  if (!list || blocks == 0) return;
  if (!list->is_array() || static_cast<int64_t>(list->size()) != blocks) throw Error(ErrorKind::input, fmt::format("field \"{}\": expected a list of {} entries, one for each block, found {}", row.key, blocks, list->is_array() ? std::to_string(list->size()) : list->dump()));
  const json expected = json::parse(row.json);
  for (size_t block = 0; block < list->size(); ++block)
    if ((*list)[block] != expected) throw Error(ErrorKind::input, fmt::format("field \"{}\": block {}: expected {} (llmc implements no other), found {}", row.key, block, row.json, (*list)[block].dump()));
}

/// The class, the same in other letters (LLaMAForCausalLM), or the one without a head, whose files leave a tied head out.
bool is_class_of(std::string_view name, const Architecture& architecture) {
  const std::string_view wanted = architecture.causal_class;
  constexpr auto lower = [](char letter) { return static_cast<char>(std::tolower(static_cast<unsigned char>(letter))); };
  if (std::ranges::equal(name, wanted, {}, lower, lower)) return true;
  const size_t stem = std::min(wanted.find("ForCausalLM"), wanted.find("LMHeadModel"));
  return name == fmt::format("{}Model", wanted.substr(0, stem));
}

void check_class(FieldReader& fields, const Architecture& architecture) {
  const auto classes = fields.find_strings("architectures");
  if (!classes.empty() && !is_class_of(classes.front(), architecture))
    throw Error(ErrorKind::input, fmt::format("field \"architectures\": expected {}, found {}", architecture.causal_class, classes.front()));
}

/// In which blocks the window holds: a list, or all but every so-many-th block.
void read_window_pattern(FieldReader& fields, const Architecture& architecture, ModelConfig& config) {
  if (architecture.window_period == 0) return;
  int64_t period = architecture.window_period;
  if (architecture.window_period_key) period = fields.find_int(architecture.window_period_key).value_or(period);
  if (period < 1) throw Error(ErrorKind::input, fmt::format("field \"{}\": expected a positive number, found {}", architecture.window_period_key, period));
  const json* list = fields.find("layer_types");
  if (list && (!list->is_array() || static_cast<int64_t>(list->size()) != config.layers)) throw Error(ErrorKind::input, fmt::format("field \"layer_types\": expected a list of {} entries, one for each block, found {}", config.layers, list->is_array() ? std::to_string(list->size()) : list->dump()));
  for (int64_t block = 0; block < config.layers && (list || config.layers <= most_blocks); ++block) {
    bool holds = (block + 1) % period != 0;
    if (list) {
      const json& type = (*list)[static_cast<size_t>(block)];
      if (type != "sliding_attention" && type != "full_attention") throw Error(ErrorKind::input, fmt::format("field \"layer_types\": block {}: expected sliding_attention or full_attention, found {}", block, type.dump()));
      holds = type == "sliding_attention";
    }
    config.windowed.push_back(holds);
  }
}

void settle_experts(const Architecture& architecture, ModelConfig& config) {
  const auto key = [&](int64_t ModelConfig::* field) { return std::ranges::find(architecture.config, field, &ConfigRow::count)->key; };
  if (config.experts_per_token > config.experts) throw Error(ErrorKind::input, fmt::format("field \"{}\": {} of {} experts for each token; expected at most as many as there are ({})", key(&ModelConfig::experts_per_token), config.experts_per_token, config.experts, key(&ModelConfig::experts)));
  constexpr int64_t most_experts = 1 << 16;
  if (config.experts > most_experts) throw Error(ErrorKind::input, fmt::format("field \"{}\": expected at most {}, found {}", key(&ModelConfig::experts), most_experts, config.experts));
  config.ffn = config.experts * config.expert_ffn + config.shared_ffn;
  if (config.ffn >= most_elements_per_dimension) throw Error(ErrorKind::input, fmt::format("field \"{}\": {} experts of {} are more than {} channels together", key(&ModelConfig::experts), config.experts, config.expert_ffn, most_elements_per_dimension - 1));
  if (architecture.routing == Routing::normalized) config.normalizes_routing = true;
}

/// What the rows cannot say: derived sizes, and sizes that must agree.
void complete(const Architecture& architecture, ModelConfig& config) {
  if (config.kv_heads == 0) config.kv_heads = config.heads;
  if (config.experts > 0) settle_experts(architecture, config);
  config.projects_embedding = config.embedding != 0 && config.embedding != config.hidden;
  if (config.ffn == 0) config.ffn = 4 * config.hidden;
  if (config.head_dim == 0) {
    if (config.hidden % config.heads != 0) throw Error(ErrorKind::input, fmt::format("hidden size {} is not a multiple of {} attention heads", config.hidden, config.heads));
    config.head_dim = config.hidden / config.heads;
  }
  config.position_offset = architecture.position_offset;
  config.norm_offset = architecture.norm_offset;
  if (config.norm_epsilon == 0) config.norm_epsilon = architecture.norm_epsilon;
  if (architecture.scales_embedding) config.embedding_scale = static_cast<double>(static_cast<float>(std::sqrt(static_cast<double>(config.hidden))));
  if (config.heads + 2 * config.kv_heads > INT64_MAX / config.head_dim) throw Error(ErrorKind::input, fmt::format("{} attention heads and {} key/value heads of {} are more values than can be counted", config.heads, config.kv_heads, config.head_dim));
  if (config.heads % config.kv_heads != 0) throw Error(ErrorKind::input, fmt::format("{} attention heads are not a multiple of {} key/value heads", config.heads, config.kv_heads));
}

}  // namespace

std::string describe_unknown_field(const std::string& path, const json& value) {
  return fmt::format("field \"{}\": {} is not understood and might change the forward pass; if you know that it does not, pass --ignore-config-field {}", shown(path), shown(value.dump()), shown(path));
}

ModelConfig read_config(const json& object, const Architecture& architecture, const std::set<std::string>& ignored, const std::string& where) {
  ModelConfig config{.norm = architecture.norm, .positions = architecture.positions, .feed_forward = architecture.feed_forward, .fused_order = architecture.fused_order};
  FieldReader fields(object, where);
  Problems problems;
  const auto attempt = [&](auto&& read) {
    try {
      read();
    } catch (const Error& problem) {
      const std::string_view text = problem.what();  // the headline names the file
      problems.add(std::string(text.starts_with(where + ": ") ? text.substr(where.size() + 2) : text));
    }
  };
  attempt([&] { check_class(fields, architecture); });
  for (const ConfigRow& row : architecture.config) attempt([&] { read_row(row, fields, config); });
  if (architecture.read_more) attempt([&] { architecture.read_more(fields, config); });
  if (problems.empty()) attempt([&] { complete(architecture, config); });
  attempt([&] { config.activation = read_activation(fields, architecture); });
  if (architecture.positions == Positions::rope) attempt([&] { read_ropes(fields, architecture, ignored, config); });
  attempt([&] { read_window_pattern(fields, architecture, config); });
  for (const FixedRow& row : fixed_everywhere) attempt([&] { check_fixed(row, fields); });
  for (const FixedRow& row : architecture.fixed) attempt([&] { check_fixed(row, fields); });
  for (const FixedRow& row : architecture.fixed_by_block) attempt([&] { check_fixed_by_block(row, fields, config.layers); });
  for (const char* key : harmless_everywhere) fields.find(key);
  for (const char* key : architecture.harmless) fields.find(key);
  for (const std::string& key : fields.unread())
    if (!object.at(key).is_null() && !ignored.contains(key)) problems.add(describe_unknown_field(key, object.at(key)));
  problems.throw_if_any(ErrorKind::input, where);
  return config;
}

Activation default_activation(const Architecture& architecture) { return find_activation(architecture.activation_fallback).value(); }

ModelConfig ModelConfig::at_block(int64_t block) const {
  ModelConfig config = *this;
  config.windowed.clear();
  if (windowed.empty() || windowed[static_cast<size_t>(block)]) config.rope = window_rope;
  else config.window = 0;
  return config;
}

int64_t ModelConfig::longest_text() const {
  if (positions != Positions::rope || (rope.scaling != RopeScaling::dynamic && rope.scaling != RopeScaling::yarn)) return context;
  return std::max(context, static_cast<int64_t>(std::min(rope.original_context * rope.factor, static_cast<double>(most_elements_per_dimension))));
}

int64_t ModelConfig::fused_query(int64_t head) const {
  if (fused_order == FusedOrder::parts) return head * head_dim;
  const int64_t shared = heads / kv_heads;
  return (head / shared * (shared + 2) + head % shared) * head_dim;
}

int64_t ModelConfig::fused_key(int64_t kv_head) const {
  if (fused_order == FusedOrder::parts) return query_width() + kv_head * head_dim;
  const int64_t shared = heads / kv_heads;
  return (kv_head * (shared + 2) + shared) * head_dim;
}

int64_t ModelConfig::fused_value(int64_t kv_head) const { return fused_order == FusedOrder::parts ? query_width() + kv_width() + kv_head * head_dim : fused_key(kv_head) + head_dim; }

std::string_view to_string(Norm norm) { return norm == Norm::rms ? "rms" : "layer"; }
std::string_view to_string(Positions positions) { 
  constexpr std::array names = {"rope", "learned", "alibi", "alibi"};
  return names[static_cast<size_t>(positions)];
}
std::string_view to_string(FeedForward feed_forward) { return feed_forward == FeedForward::gated ? "gated" : "plain"; }
std::string_view to_string(Activation activation) {
  constexpr std::array names = {"silu", "gelu", "gelu_tanh", "relu"};
  return names[static_cast<size_t>(activation)];
}

}  // namespace llmc
