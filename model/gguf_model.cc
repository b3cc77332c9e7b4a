#include "model/gguf_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/suggest.h"
#include "formats/codecs/gguf_codecs.h"
#include "model/gguf_rope.h"

namespace llmc {

using nlohmann::json;

namespace {

/// By role: names without .weight or .bias; {} is the number of the block. Source: gguf-py's constants.py (TENSOR_NAMES).
std::string_view name_of(Role role) {
  constexpr std::array names = {"token_embd", "position_embd", "blk.{}.attn_norm", "blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v", "blk.{}.attn_qkv", "blk.{}.attn_q_norm", "blk.{}.attn_k_norm", "blk.{}.attn_output", "blk.{}.post_attention_norm", "blk.{}.ffn_norm", "blk.{}.ffn_gate", "blk.{}.ffn_up", "blk.{}.ffn_up", "blk.{}.ffn_down", "blk.{}.post_ffw_norm", "token_embd_norm", "output_norm", "output"};
  return names[static_cast<size_t>(role)];
}

std::string tensor_name(Role role, int64_t block, Part part) { return fmt::format(fmt::runtime(name_of(role)), block) + (part == Part::bias ? ".bias" : ".weight"); }

enum class Need { always, maybe };

/// A key, after the architecture's name, of a field of the config.
struct CountKey {
  int64_t ModelConfig::* field;
  const char* key;
  Need need = Need::always;
};
constexpr std::array count_keys = {
    CountKey{&ModelConfig::vocabulary, "vocab_size", Need::maybe},
    CountKey{&ModelConfig::context, "context_length"},
    CountKey{&ModelConfig::hidden, "embedding_length"},
    CountKey{&ModelConfig::layers, "block_count"},
    CountKey{&ModelConfig::ffn, "feed_forward_length"},
    CountKey{&ModelConfig::heads, "attention.head_count"},
    CountKey{&ModelConfig::kv_heads, "attention.head_count_kv", Need::maybe},
    CountKey{&ModelConfig::head_dim, "attention.key_length", Need::maybe},
};

const char* epsilon_key(Norm norm) { return norm == Norm::rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon"; }

/// Keys that say nothing when they have this value.
struct NeutralKey {
  const char* key;
  double value;
};
constexpr std::array neutral_keys = {NeutralKey{"expert_count", 0}, NeutralKey{"expert_used_count", 0}, NeutralKey{"rope.scale_linear", 1}};

/// The shortest decimal that the f32 of a file is nearest to: what somebody wrote in a config.json.
double as_written(double value) { return std::stod(fmt::format("{}", static_cast<float>(value))); }

const Architecture& find_architecture(const GgufMetadata& metadata) {
  const std::string& name = metadata.get_string("general.architecture");
  std::vector<std::string> names;
  for (const Architecture& architecture : architecture_list()) {
    if (!architecture.gguf_name) continue;
    if (architecture.gguf_name == name) return architecture;
    names.push_back(architecture.gguf_name);
  }
  throw Error(ErrorKind::input, fmt::format("{}: key general.architecture: \"{}\" is not supported{}; `llmc list` names the architectures", metadata.where(), name, did_you_mean(name, names)));
}

/// A key's value as a config that does not know it shows it.
json as_json(const GgufValue& value) {
  if (const auto* number = std::get_if<uint64_t>(&value.value)) return *number;
  if (const auto* number = std::get_if<int64_t>(&value.value)) return *number;
  if (const auto* number = std::get_if<double>(&value.value)) return *number;
  if (const auto* flag = std::get_if<bool>(&value.value)) return *flag;
  if (const auto* text = std::get_if<std::string>(&value.value)) return *text;
  return fmt::format("array of {}", std::get<GgufArray>(value.value).size());
}

/// Turns the keys of one architecture into a config.json, and knows which of them it has used.
class ConfigReader {
 public:
  ConfigReader(const Checkpoint& checkpoint, const Architecture& architecture) : checkpoint_(checkpoint), metadata_(*checkpoint.gguf), architecture_(architecture) {}

  json read() {
    config_ = {{"model_type", architecture_.model_type}, {"architectures", {architecture_.causal_class}}, {architecture_.activation_key, architecture_.activation_fallback}};
    for (const CountKey& row : count_keys) read_count(row);
    read_number(epsilon_key(architecture_.norm), [](const ConfigRow& row) { return row.number == &ModelConfig::norm_epsilon; });
    if (architecture_.positions == Positions::rope) read_rope();
    read_flags();
    check_sizes();
    read_rest();
    problems_.throw_if_any(ErrorKind::input, metadata_.where());
    return std::move(config_);
  }

 private:
  std::string use(const std::string& key) {
    used_.push_back(fmt::format("{}.{}", architecture_.gguf_name, key));
    return used_.back();
  }

  const ConfigRow* find_row(int64_t ModelConfig::* field) const {
    const auto row = std::ranges::find(architecture_.config, field, &ConfigRow::count);
    return row == architecture_.config.end() ? nullptr : &*row;
  }

  const StoredTensor* find_tensor(const std::string& name) const {
    const auto tensor = std::ranges::find(checkpoint_.tensors, name, &StoredTensor::name);
    return tensor == checkpoint_.tensors.end() ? nullptr : &*tensor;
  }

  void read_count(const CountKey& key) {
    const std::string name = use(key.key);
    const ConfigRow* row = find_row(key.field);
    std::optional<int64_t> value = metadata_.find_int(name);
    if (key.field == &ModelConfig::vocabulary && !value) {
      const StoredTensor* embedding = find_tensor(tensor_name(Role::token_embedding, -1, Part::weight));
      if (embedding) value = embedding->shape.front();
    }
    if (!value && key.need == Need::always) return problems_.add(fmt::format("key {} is missing", name));
    if (value && row) config_[row->key] = *value;
    else if (value && key.field == &ModelConfig::kv_heads && value != metadata_.find_int(use("attention.head_count"))) problems_.add(fmt::format("key {}: {} has as many key/value heads as heads, found {}", name, architecture_.causal_class, *value));
  }

  template <typename IsRow>
  void read_number(const char* key, IsRow is_row) {
    const std::string name = use(key);
    const auto row = std::ranges::find_if(architecture_.config, is_row);
    const auto value = metadata_.find_number(name);
    if (!value) return problems_.add(fmt::format("key {} is missing", name));
    if (row != architecture_.config.end()) config_[row->key] = as_written(*value);
  }

  void read_rope() {
    if (const auto base = metadata_.find_number(use("rope.freq_base"))) config_["rope_theta"] = as_written(*base);
    json scaling = read_gguf_rope_scaling(checkpoint_, fmt::format("{}.", architecture_.gguf_name), find_head_dim(), used_, problems_);
    if (!scaling.is_null()) config_["rope_scaling"] = std::move(scaling);
  }

  /// 0 where the file does not say.
  int64_t find_head_dim() {
    const int64_t heads = metadata_.find_int(use("attention.head_count")).value_or(0), hidden = metadata_.find_int(use("embedding_length")).value_or(0);
    return metadata_.find_int(use("attention.key_length")).value_or(heads > 0 ? hidden / heads : 0);
  }

  /// What the file says by having a tensor.
  void read_flags() {
    const auto set = [&](bool ModelConfig::* field, bool value) {
      const auto row = std::ranges::find(architecture_.config, field, &ConfigRow::flag);
      if (row != architecture_.config.end()) config_[row->key] = value;
    };
    set(&ModelConfig::tied_head, !find_tensor(tensor_name(Role::output_head, -1, Part::weight)));
    set(&ModelConfig::attention_bias, find_tensor(tensor_name(Role::query, 0, Part::bias)) != nullptr);
    set(&ModelConfig::ffn_bias, find_tensor(tensor_name(Role::ffn_up, 0, Part::bias)) != nullptr);
  }

  /// Sizes that GGUF says more than once.
  void check_sizes() {
    const int64_t expected = find_head_dim();
    if (expected < 1) return;
    for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
      const auto found = metadata_.find_int(use(key));
      if (found && *found != expected) problems_.add(fmt::format("key {}: expected {}, the size of a head, found {}", used_.back(), expected, *found));
    }
  }

  /// Keys of the tokenizer's ids, and those that nothing above has read.
  void read_rest() {
    for (const auto& [name, key] : {std::pair("bos_token_id", "tokenizer.ggml.bos_token_id"), std::pair("eos_token_id", "tokenizer.ggml.eos_token_id"), std::pair("pad_token_id", "tokenizer.ggml.padding_token_id")})
      if (const auto id = metadata_.find_int(key)) config_[name] = *id;
    const auto causal = metadata_.find_bool(use("attention.causal"));
    if (causal && !*causal) problems_.add(fmt::format("key {}: expected true, found false", used_.back()));
    for (const NeutralKey& row : neutral_keys)
      if (const auto value = metadata_.find_number(fmt::format("{}.{}", architecture_.gguf_name, row.key)); value && *value == row.value) use(row.key);
    use("tensor_data_layout");  // of old files, for people
    for (const GgufEntry& entry : metadata_.entries())
      if (entry.key.starts_with(std::string(architecture_.gguf_name) + ".") && std::ranges::find(used_, entry.key) == used_.end()) config_[entry.key] = as_json(entry.value);
  }

  const Checkpoint& checkpoint_;
  const GgufMetadata& metadata_;
  const Architecture& architecture_;
  json config_;
  std::vector<std::string> used_;
  Problems problems_;
};

/// config.json's word for what most weights are.
std::string_view name_dtype(const Checkpoint& checkpoint) {
  std::map<DType, int64_t> counts;
  for (const StoredTensor& tensor : checkpoint.tensors) counts[tensor.dtype] += tensor.count();
  const auto most = std::ranges::max_element(counts, {}, [](const auto& entry) { return entry.second; });
  return get_info(most == counts.end() ? DType::f32 : most->first).torch_name;
}

/// Row r of the logical matrix lies in the file at this row: head h, half s, place i of it goes to h, i, s.
std::vector<int32_t> paired_rows(int64_t rows, int64_t head_dim) {
  std::vector<int32_t> order(static_cast<size_t>(rows));
  const int64_t half = head_dim / 2;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t head = r / head_dim, side = r % head_dim / half, place = r % half;
    order[static_cast<size_t>(r)] = static_cast<int32_t>(head * head_dim + 2 * place + side);
  }
  return order;
}

bool has_paired_rows(const Architecture& architecture, Role role) { return architecture.gguf_rotary == GgufRotary::pairs && (role == Role::query || role == Role::key); }

}  // namespace

std::string gguf_tensor_name(const PlacedTensor& placed) { return tensor_name(placed.row->role, placed.block, placed.part); }

void adopt_gguf(Checkpoint& checkpoint) {
  const Architecture& architecture = find_architecture(*checkpoint.gguf);
  checkpoint.config = ConfigReader(checkpoint, architecture).read();
  if (architecture.positions == Positions::rope) std::erase_if(checkpoint.tensors, [](const StoredTensor& tensor) { return tensor.name == gguf_rope_factors_name; });  // the config says it now
  checkpoint.config["dtype"] = name_dtype(checkpoint);
  const int64_t layers = checkpoint.gguf->find_int(fmt::format("{}.block_count", architecture.gguf_name)).value_or(0);
  const int64_t heads = checkpoint.gguf->find_int(fmt::format("{}.attention.head_count", architecture.gguf_name)).value_or(0);
  const int64_t hidden = checkpoint.gguf->find_int(fmt::format("{}.embedding_length", architecture.gguf_name)).value_or(0);
  const int64_t head_dim = checkpoint.gguf->find_int(fmt::format("{}.attention.key_length", architecture.gguf_name)).value_or(heads > 0 ? hidden / heads : 0);

  const auto place = [&](const TensorRow& row, int64_t block, Part part) {
    const auto tensor = std::ranges::find(checkpoint.tensors, tensor_name(row.role, block, part), &StoredTensor::name);
    if (tensor == checkpoint.tensors.end()) return;  // what is missing is reported with the other tensors' problems
    tensor->name = (block < 0 ? std::string(row.name) : fmt::format(fmt::runtime(row.name), block)) + (part == Part::bias ? ".bias" : ".weight");
    const int64_t rows = part == Part::bias ? tensor->count() : tensor->rows();
    if (has_paired_rows(architecture, row.role) && head_dim > 0 && head_dim % 2 == 0 && rows % head_dim == 0 && rows <= INT32_MAX) set_row_order(*tensor, paired_rows(rows, head_dim));
    if (row.kind == TensorKind::conv1d && part == Part::weight && tensor->shape.size() == 2) set_transposed(*tensor);
  };
  for (const TensorRow& row : architecture.tensors) {
    const bool is_outer = std::string_view(row.name).find("{}") == std::string_view::npos;
    for (int64_t block = is_outer ? -1 : 0; block < (is_outer ? 0 : std::min<int64_t>(layers, std::ssize(checkpoint.tensors))); ++block)
      for (Part part : {Part::weight, Part::bias}) place(row, block, part);
  }
  std::ranges::sort(checkpoint.tensors, {}, &StoredTensor::name);
}

std::vector<int32_t> gguf_source_rows(const Model& model, const PlacedTensor& placed) {
  if (!has_paired_rows(model.architecture(), placed.row->role)) return {};
  const int64_t rows = placed.part == Part::bias ? placed.tensor->count() : placed.tensor->rows();
  const std::vector<int32_t> stored = paired_rows(rows, model.config().head_dim);
  std::vector<int32_t> source(stored.size());
  for (size_t r = 0; r < stored.size(); ++r) source[static_cast<size_t>(stored[r])] = static_cast<int32_t>(r);
  return source;
}

MixFacts gguf_mix_facts(const Model& model, MixImportance importance) {
  const ModelConfig& config = model.config();
  return {.layers = config.layers, .heads = config.heads, .kv_heads = config.kv_heads, .large = model.architecture().gguf_large, .importance = importance};
}

void check_gguf_model(const Model& model) {
  const Architecture& architecture = model.architecture();
  const ModelConfig& config = model.config();
  const std::string where = model.checkpoint().directory.string();
  if (!architecture.gguf_name) throw Error(ErrorKind::usage, fmt::format("{}: llmc does not write {} as a GGUF file", where, architecture.causal_class));
  const Activation run = default_activation(architecture);
  if (config.activation != run) throw Error(ErrorKind::usage, fmt::format("{}: its activation is {}, but llama.cpp runs {} with {}", where, to_string(config.activation), architecture.gguf_name, to_string(run)));
  if (config.window > 0 && config.window < config.context) throw Error(ErrorKind::usage, fmt::format("{}: its queries see {} of {} positions, but llama.cpp runs {} without a window", where, config.window, config.context, architecture.gguf_name));
  if (architecture.gguf_heads == GgufHeads::fill_hidden && config.query_width() != config.hidden)
    throw Error(ErrorKind::usage, fmt::format("{}: {} heads of {} make {}, but llama.cpp loads {} only where they make the hidden size, {}", where, config.heads, config.head_dim, config.query_width(), architecture.gguf_name, config.hidden));
  check_gguf_rope(model);
}

void add_gguf_config(GgufMetadata& metadata, const Model& model) {
  const Architecture& architecture = model.architecture();
  const ModelConfig& config = model.config();
  const auto set = [&](const char* key, GgufValue value) { metadata.set(fmt::format("{}.{}", architecture.gguf_name, key), std::move(value)); };
  for (const CountKey& row : count_keys) set(row.key, gguf_u32(static_cast<uint32_t>(config.*row.field)));
  set("attention.value_length", gguf_u32(static_cast<uint32_t>(config.head_dim)));
  set(epsilon_key(config.norm), gguf_f32(static_cast<float>(config.norm_epsilon)));
  if (config.positions == Positions::rope) {
    set("rope.dimension_count", gguf_u32(static_cast<uint32_t>(config.rope.dim)));
    set("rope.freq_base", gguf_f32(static_cast<float>(config.rope.theta)));
    add_gguf_rope_scaling(metadata, fmt::format("{}.", architecture.gguf_name), config.rope);
  }
}

}  // namespace llmc
