#include "model/gguf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/utf8.h"
#include "model/gguf_model.h"
#include "model/gguf_rope.h"

namespace llmc {

using nlohmann::json;

namespace {

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

/// The same of bounds: an architecture has those up to its GgufCaps.
struct CapKey {
  double ModelConfig::* field;
  const char* key;
  GgufCaps least;
};
constexpr std::array cap_keys = {CapKey{&ModelConfig::logit_cap, "final_logit_softcapping", GgufCaps::logits}, CapKey{&ModelConfig::score_cap, "attn_logit_softcapping", GgufCaps::both}};

constexpr const char* parallel_key = "use_parallel_residual";  // also config.json's, where it has one
constexpr const char* window_key = "attention.sliding_window";
constexpr const char* pattern_key = "attention.sliding_window_pattern";
constexpr const char* window_theta_key = "rope.freq_base_swa";
constexpr double default_theta = 10000;     // llama.cpp's
constexpr int64_t most_pattern_blocks = 512;  // LLAMA_MAX_LAYERS

const char* epsilon_key(Norm norm) { return norm == Norm::rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon"; }

/// Keys that say nothing when they have this value.
struct NeutralKey {
  const char* key;
  double value;
};
constexpr std::array neutral_keys = {NeutralKey{"expert_count", 0}, NeutralKey{"expert_used_count", 0}, NeutralKey{"rope.scale_linear", 1}};

/// The shortest decimal that the f32 of a file is nearest to: what somebody wrote in a config.json.
double as_written(double value) { return std::stod(fmt::format("{}", static_cast<float>(value))); }

bool keeps_windows(const GgufArchitecture& gguf) { return gguf.window == GgufWindow::kept || gguf.window == GgufWindow::always; }

/// Whether the window holds in a block of a file without a pattern.
bool is_windowed_by_default(const Architecture& architecture, int64_t block) { return (block + 1) % architecture.window_period != 0; }

const ConfigRow* find_flag_row(const Architecture& architecture, bool ModelConfig::* field) {
  const auto row = std::ranges::find(architecture.config, field, &ConfigRow::flag);
  return row == architecture.config.end() ? nullptr : &*row;
}
const ConfigRow* find_count_row(const Architecture& architecture, int64_t ModelConfig::* field) {
  const auto row = std::ranges::find(architecture.config, field, &ConfigRow::count);
  return row == architecture.config.end() ? nullptr : &*row;
}
const ConfigRow* find_number_row(const Architecture& architecture, double ModelConfig::* field) {
  const auto row = std::ranges::find(architecture.config, field, &ConfigRow::number);
  return row == architecture.config.end() ? nullptr : &*row;
}

bool says_parallel(const Architecture& architecture) {
  const ConfigRow* row = find_flag_row(architecture, &ModelConfig::parallel);
  return row && std::string_view(row->key) == parallel_key;
}

/// The part of a head that is rotated, such that its product with the head's size, cut to a whole number, is `dim`.
double share_of(int64_t dim, int64_t head_dim) {
  const double share = static_cast<double>(dim) / static_cast<double>(head_dim);
  return static_cast<int64_t>(static_cast<double>(head_dim) * share) == dim ? share : std::nextafter(share, 2);
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

  GgufConfig read() {
    config_ = {{"model_type", architecture_.model_type}, {"architectures", {architecture_.causal_class}}};
    if (architecture_.activation_key) config_[architecture_.activation_key] = architecture_.activation_fallback;
    facts_.fused_order = architecture_.fused_order;
    for (const CountKey& row : count_keys) read_count(row);
    facts_.head_dim = find_head_dim();
    read_epsilon();
    read_flags();
    if (architecture_.gguf_more) architecture_.gguf_more(facts_, config_);
    if (architecture_.positions == Positions::rope) read_rope();
    read_caps();
    read_windows();
    if (const ConfigRow* row = find_number_row(architecture_, &ModelConfig::score_divisor)) config_[row->key] = gguf_score_divisor(architecture_.gguf, facts_.layers, facts_.heads, facts_.hidden, facts_.head_dim);
    check_sizes();
    read_rest();
    problems_.throw_if_any(ErrorKind::input, metadata_.where());
    return {std::move(config_), std::move(facts_)};
  }

 private:
  std::string use(const std::string& key) {
    used_.push_back(fmt::format("{}.{}", architecture_.gguf.name, key));
    return used_.back();
  }

  const StoredTensor* find_tensor(const std::string& name) const {
    const auto tensor = std::ranges::find(checkpoint_.tensors, name, &StoredTensor::name);
    return tensor == checkpoint_.tensors.end() ? nullptr : &*tensor;
  }
  /// Of the first block, or outside.
  bool has(const TensorRow& row, Part part) const { return find_tensor(gguf_tensor_name(row, is_outer(row) ? -1 : 0, part)); }
  bool has(Role role, Part part) const {
    return std::ranges::any_of(architecture_.tensors, [&](const TensorRow& row) { return row.role == role && has(row, part); });
  }

  void read_count(const CountKey& key) {
    const std::string name = use(key.key);
    const ConfigRow* row = find_count_row(architecture_, key.field);
    std::optional<int64_t> value = metadata_.find_int(name);
    if (key.field == &ModelConfig::vocabulary && !value) {
      const StoredTensor* embedding = find_tensor("token_embd.weight");
      if (embedding) value = embedding->shape.front();
    }
    if (!value && key.need == Need::always) return problems_.add(fmt::format("key {} is missing", name));
    facts_.*key.field = value.value_or(key.field == &ModelConfig::kv_heads ? facts_.heads : 0);
    if (value && row) config_[row->key] = *value;
    else if (value && key.field == &ModelConfig::kv_heads && *value != facts_.heads) problems_.add(fmt::format("key {}: {} has as many key/value heads as heads, found {}", name, architecture_.causal_class, *value));
    else if (value && key.field == &ModelConfig::ffn && (*value % 4 != 0 || *value / 4 != facts_.hidden)) problems_.add(fmt::format("key {}: {} has four times the hidden size, found {}", name, architecture_.causal_class, *value));
    else if (value && key.field == &ModelConfig::head_dim && facts_.heads > 0 && *value != facts_.hidden / facts_.heads) problems_.add(fmt::format("key {}: {} has the hidden size over the number of heads, found {}", name, architecture_.causal_class, *value));
  }

  void read_epsilon() {
    const std::string name = use(epsilon_key(architecture_.norm));
    const auto value = metadata_.find_number(name);
    if (!value) return problems_.add(fmt::format("key {} is missing", name));
    if (const ConfigRow* row = find_number_row(architecture_, &ModelConfig::norm_epsilon)) config_[row->key] = as_written(*value);
  }

  void read_rope() {
    config_[architecture_.rope_theta_key] = as_written(metadata_.find_number(use("rope.freq_base")).value_or(default_theta));
    const auto dim = metadata_.find_int(use("rope.dimension_count"));
    if (dim && facts_.head_dim > 0 && architecture_.rotary_share && *dim > 0 && *dim <= facts_.head_dim) config_[architecture_.rotary_share_key] = share_of(*dim, facts_.head_dim);
    else if (dim && facts_.head_dim > 0 && *dim != facts_.head_dim) problems_.add(fmt::format("key {}: expected {}{}, the size of a head, found {}", used_.back(), architecture_.rotary_share ? "at most " : "", facts_.head_dim, *dim));
    else if (!dim && architecture_.rotary_share) config_[architecture_.rotary_share_key] = 1;
    json scaling = read_gguf_rope_scaling(checkpoint_, fmt::format("{}.", architecture_.gguf.name), facts_.head_dim, used_, problems_);
    if (!scaling.is_null()) config_["rope_scaling"] = std::move(scaling);
    if (architecture_.window_theta) config_["rope_local_base_freq"] = as_written(metadata_.find_number(use(window_theta_key)).value_or(default_theta));
  }

  /// 0 where the file does not say.
  int64_t find_head_dim() {
    return metadata_.find_int(use("attention.key_length")).value_or(facts_.heads > 0 ? facts_.hidden / facts_.heads : 0);
  }

  /// What the file says by having a tensor, or lacking it, and by a key where no tensor tells.
  void read_flags() {
    for (const ConfigRow& row : architecture_.config) {
      if (!row.flag) continue;
      std::optional<bool> value, denied;
      for (const TensorRow& tensor : architecture_.tensors) {
        if (tensor.only_if == row.flag) value = value.value_or(true) && has(tensor, Part::weight);
        if (tensor.unless == row.flag) denied = denied.value_or(false) || has(tensor, Part::weight);
      }
      if (!value && denied) value = !*denied;  // a tensor of both kinds of models may have one name
      if (row.flag == &ModelConfig::tied_head) value = !has(Role::output_head, Part::weight);
      if (row.flag == &ModelConfig::attention_bias) value = has(Role::query, Part::bias) || has(Role::query_key_value, Part::bias);
      if (row.flag == &ModelConfig::ffn_bias) value = has(Role::ffn_up, Part::bias);
      if (row.flag == &ModelConfig::parallel && says_parallel(architecture_)) {
        const auto said = metadata_.find_bool(use(parallel_key));
        if (!value) value = said;
      }
      if (!value) continue;
      facts_.*row.flag = *value;
      config_[row.key] = *value;
    }
  }

  void read_caps() {
    for (const CapKey& cap : cap_keys) {
      const ConfigRow* row = find_number_row(architecture_, cap.field);
      if (!row || architecture_.gguf.caps < cap.least) continue;
      if (const auto value = metadata_.find_number(use(cap.key))) config_[row->key] = *value == 0 ? json() : json(as_written(*value));
    }
  }

  void read_windows() {
    const ConfigRow* row = find_count_row(architecture_, &ModelConfig::window);
    const GgufWindow window = architecture_.gguf.window;
    if (!row || window == GgufWindow::none) {
      if (row) config_[row->key] = nullptr;
      return;
    }
    const auto width = metadata_.find_int(use(window_key));
    if (window == GgufWindow::always && width && *width == 0) problems_.add(fmt::format("key {}: expected a positive number, found 0", used_.back()));
    if (width && *width != 0) config_[row->key] = *width;
    else if (window != GgufWindow::always) config_[row->key] = nullptr;  // else the default of both is the same
    if (keeps_windows(architecture_.gguf)) read_window_pattern();
  }

  void read_window_pattern() {
    const std::string name = use(pattern_key);
    const GgufValue* value = metadata_.find(name);
    if (!value) return;
    if (facts_.layers > most_pattern_blocks) return problems_.add(fmt::format("key {}: llama.cpp has at most {} blocks, found {}", name, most_pattern_blocks, facts_.layers));
    std::vector<bool> windowed;
    if (value->type == GgufValueType::array) {
      const auto entries = metadata_.find_ints(name);
      for (int64_t holds : *entries) windowed.push_back(holds != 0);
    } else {
      const int64_t period = *metadata_.find_int(name);
      for (int64_t block = 0; block < facts_.layers; ++block) windowed.push_back(period <= 0 || block % period < period - 1);
    }
    if (std::ssize(windowed) != facts_.layers) return problems_.add(fmt::format("key {}: expected {} entries, one for each block, found {}", name, facts_.layers, windowed.size()));
    json types = json::array();
    for (bool holds : windowed) types.push_back(holds ? "sliding_attention" : "full_attention");
    config_["layer_types"] = std::move(types);
  }

  /// The size of a head, which GGUF says twice.
  void check_sizes() {
    const auto found = metadata_.find_int(use("attention.value_length"));
    if (found && facts_.head_dim > 0 && *found != facts_.head_dim) problems_.add(fmt::format("key {}: expected {}, the size of a head, found {}", used_.back(), facts_.head_dim, *found));
  }

  /// Ids that end a turn or a message end a text too, as in llama.cpp.
  void read_end_tokens() {
    json ids = json::array();
    for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
      if (const auto id = metadata_.find_int(key); id && std::find(ids.begin(), ids.end(), json(*id)) == ids.end()) ids.push_back(*id);
    if (!ids.empty()) config_["eos_token_id"] = ids.size() == 1 ? ids.front() : ids;
  }

  /// Keys of the tokenizer's ids, and those that nothing above has read.
  void read_rest() {
    for (const auto& [name, key] : {std::pair("bos_token_id", "tokenizer.ggml.bos_token_id"), std::pair("pad_token_id", "tokenizer.ggml.padding_token_id")})
      if (const auto id = metadata_.find_int(key)) config_[name] = *id;
    read_end_tokens();
    const auto causal = metadata_.find_bool(use("attention.causal"));
    if (causal && !*causal) problems_.add(fmt::format("key {}: expected true, found false", used_.back()));
    for (const NeutralKey& row : neutral_keys)
      if (const auto value = metadata_.find_number(fmt::format("{}.{}", architecture_.gguf.name, row.key)); value && *value == row.value) use(row.key);
    use("tensor_data_layout");  // of old files, for people
    const std::set<std::string_view> used(used_.begin(), used_.end());
    for (const GgufEntry& entry : metadata_.entries()) {
      if (!entry.key.starts_with(std::string(architecture_.gguf.name) + ".") || used.contains(entry.key)) continue;
      const auto* text = std::get_if<std::string>(&entry.value.value);
      if (find_invalid_utf8(entry.key) || (text && find_invalid_utf8(*text))) problems_.add(fmt::format("key {}: is not valid UTF-8", entry.key));
      else config_[entry.key] = as_json(entry.value);
    }
  }

  const Checkpoint& checkpoint_;
  const GgufMetadata& metadata_;
  const Architecture& architecture_;
  json config_;
  ModelConfig facts_;
  std::vector<std::string> used_;
  Problems problems_;
};

}  // namespace

GgufConfig read_gguf_config(const Checkpoint& checkpoint, const Architecture& architecture) { return ConfigReader(checkpoint, architecture).read(); }

double gguf_score_divisor(const GgufArchitecture& gguf, int64_t layers, int64_t heads, int64_t hidden, int64_t head_dim) {
  return static_cast<double>(layers == gguf.wide_scores && heads > 0 ? hidden / heads : head_dim);
}

void add_gguf_config(GgufMetadata& metadata, const Model& model) {
  const Architecture& architecture = model.architecture();
  const GgufArchitecture& gguf = architecture.gguf;
  const ModelConfig& config = model.config();
  const auto named = [&](const char* key) { return fmt::format("{}.{}", gguf.name, key); };
  const auto set = [&](const char* key, GgufValue value) { metadata.set(named(key), std::move(value)); };
  for (const CountKey& row : count_keys) set(row.key, gguf_u32(static_cast<uint32_t>(config.*row.field)));
  set("attention.value_length", gguf_u32(static_cast<uint32_t>(config.head_dim)));
  set(epsilon_key(config.norm), gguf_f32(static_cast<float>(config.norm_epsilon)));
  if (says_parallel(architecture)) set(parallel_key, gguf_bool(config.parallel));
  for (const CapKey& cap : cap_keys)
    if (gguf.caps >= cap.least && config.*cap.field > 0) set(cap.key, gguf_f32(static_cast<float>(config.*cap.field)));
  if (gguf.window != GgufWindow::none) set(window_key, gguf_u32(static_cast<uint32_t>(config.window)));
  if (keeps_windows(gguf) && config.window > 0) {
    bool is_default = true;
    for (int64_t block = 0; block < config.layers; ++block) is_default &= config.windowed[static_cast<size_t>(block)] == is_windowed_by_default(architecture, block);
    if (is_default) metadata.erase(named(pattern_key));
    else set(pattern_key, gguf_bools(config.windowed));
  }
  if (config.positions == Positions::rope) {
    set("rope.dimension_count", gguf_u32(static_cast<uint32_t>(config.rope.dim)));
    set("rope.freq_base", gguf_f32(static_cast<float>(config.rope.theta)));
    if (architecture.window_theta) set(window_theta_key, gguf_f32(static_cast<float>(config.window_rope.theta)));
    add_gguf_rope_scaling(metadata, fmt::format("{}.", gguf.name), config.rope);
  }
}

}  // namespace llmc
