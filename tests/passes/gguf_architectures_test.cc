// Every architecture's tiny model goes into a GGUF file and comes back, or is refused for what llama.cpp would do otherwise.
#include <algorithm>
#include <set>

#include "core/error.h"
#include "formats/gguf_writer.h"
#include "model/expected_tensors.h"
#include "model/gguf_model.h"
#include "model/untie_head.h"
#include "passes/gguf_artifact.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;
using namespace llmc::test;
using Catch::Matchers::Contains;
using nlohmann::json;

namespace {

/// The tiny model with another config, without the tensors that this one does not have.
Model load_changed(const std::string& name, const json& changes) {
  Checkpoint checkpoint = open_checkpoint(golden_root() / name);
  checkpoint.config.merge_patch(changes);
  const Architecture& architecture = get_architecture(checkpoint.config.at("model_type"), name);
  std::set<std::string> expected;
  const ModelConfig config = read_config(checkpoint.config, architecture, {}, name);
  for (const ExpectedTensor& tensor : list_expected_tensors(architecture, config))
    if (!config.tied_head || tensor.row->role != Role::output_head) expected.insert(tensor.name);
  if (!changes.empty()) std::erase_if(checkpoint.tensors, [&](const StoredTensor& tensor) { return !expected.contains(tensor.name); });
  return place_tensors(std::move(checkpoint), {});
}

Model write_and_read(const Model& model, const std::string& type, const std::filesystem::path& file) {
  std::filesystem::remove(file);
  GgufOptions options{.type = type};
  write_gguf({file}, model, options, plan_gguf(model, options), {.command = "convert"}, context());
  return load_model(file, {}, context());
}

/// The tensors of a file with other keys, and with vectors of zeros in front.
void write_changed(const std::filesystem::path& file, const GgufFiles& files, const GgufMetadata& metadata, const std::vector<const char*>& more = {}) {
  std::vector<GgufLayout> layouts;
  for (const char* name : more) layouts.push_back({name, &get_info(GgufType::f32), {32}});
  for (const GgufTensor& tensor : files.tensors) layouts.push_back({tensor.name, tensor.type, tensor.shape});
  std::filesystem::remove(file);
  GgufWriter writer(file, metadata, layouts);
  for (const char* name : more) writer.write(name, std::vector<std::byte>(4 * 32));
  for (const GgufTensor& tensor : files.tensors) writer.write(tensor.name, tensor.bytes);
  writer.close();
}

/// Norms that count from 1 come back as the f32 that 1 + w is nearest to allows.
bool is_close(const Matrix& a, const Matrix& b, double bound) { return a.rows() == b.rows() && a.cols() == b.cols() && largest_difference(a, b) <= bound; }

void check_same_model(const Model& source, const Model& read) {
  ModelConfig config = source.config(), found = read.config();
  if (config.window == 0 || config.window >= config.context) config.window = found.window = 0;  // a Llama's file does not say it
  CHECK((found == config));
  REQUIRE(read.tensors().size() == source.tensors().size());
  for (const PlacedTensor& placed : source.tensors()) {
    INFO(placed.tensor->name);
    const StoredTensor* tensor = read.find(placed.row->role, placed.block, placed.part);
    REQUIRE(tensor);
    if (source.architecture().model_type == read.architecture().model_type && placed.tensor->name.find('.') != std::string::npos) CHECK(tensor->shape == placed.tensor->shape);
    const double offset = gguf_offset(source.architecture(), *placed.row, placed.part);
    CHECK(is_close(read_matrix(*placed.tensor), read_matrix(*tensor), offset == 0 ? 0 : 0x1p-24 * 4));
  }
}

const json no_changes = json::object();
const json gemma_scores = {{"query_pre_attn_scalar", 12}};

struct Written {
  const char* name;
  const char* architecture;
  json changes = no_changes;
};
const std::vector<Written>& written() {
  static const std::vector<Written> cases = {
      {"llama-gqa-tied", "llama"}, {"llama-mha-untied", "llama"}, {"llama-bias", "llama"}, {"llama-headdim", "llama"}, {"llama-sharded", "llama"}, {"llama-f16", "llama"}, {"llama-bf16", "llama"}, {"llama-toplevel-theta", "llama"}, {"llama-rope-linear", "llama"}, {"llama-rope-llama3", "llama"},
      {"llama-rope-yarn", "llama", {{"rope_parameters", {{"beta_fast", nullptr}, {"beta_slow", nullptr}}}}},
      {"mistral-whole", "llama"}, {"mistral-window", "llama", {{"max_position_embeddings", 7}}},
      {"qwen2-tied", "qwen2"}, {"qwen2-untied", "qwen2"}, {"qwen3-tied", "qwen3"}, {"qwen3-untied", "qwen3"},
      {"gpt2-tied", "gpt2"}, {"gpt2-noprefix", "gpt2"}, {"gpt2-untied", "gpt2", {{"activation_function", "gelu_new"}}},
      {"gemma", "gemma"}, {"gemma2", "gemma2", gemma_scores}, {"gemma3", "gemma3", gemma_scores},
      {"gemma3", "gemma3", {{"query_pre_attn_scalar", 12}, {"final_logit_softcapping", 3.0}, {"sliding_window", nullptr}}},
      {"gemma3", "gemma3", {{"query_pre_attn_scalar", 12}, {"layer_types", {"full_attention", "full_attention", "sliding_attention"}}}},
      {"gemma2", "gemma2", {{"query_pre_attn_scalar", 12}, {"layer_types", {"sliding_attention", "sliding_attention", "full_attention"}}}},
      {"phi3-whole", "phi3"}, {"phi3-part", "phi3", {{"sliding_window", 64}}}, {"phi3-part", "phi3", {{"max_position_embeddings", 9}}},
      {"stablelm", "stablelm"}, {"stablelm-bias", "stablelm"}, {"stablelm-parallel", "stablelm"},
      {"olmo2", "olmo2"}, {"gpt-neox", "gptneox"}, {"gpt-neox-sequential", "gptneox"}, {"bloom", "bloom"}, {"bloom-untied", "bloom"},
      {"falcon", "falcon"}, {"falcon-groups", "falcon", {{"bias", false}}}, {"falcon-heads", "falcon"}, {"falcon-one-norm", "falcon"},
  };
  return cases;
}

}  // namespace

TEST_CASE("A model of every architecture comes back from a GGUF file as it was", "[gguf][architectures]") {
  const TemporaryDirectory temporary;
  for (const Written& c : written()) {
    INFO(c.name << " " << c.changes.dump());
    Model model = load_changed(c.name, c.changes);
    if (model.architecture().gguf.head == GgufHead::own && model.config().tied_head) model = untie_head(std::move(model), {});
    const Model read = write_and_read(model, "F32", temporary.path() / "a.gguf");
    CHECK(read.checkpoint().gguf->get_string("general.architecture") == c.architecture);
    check_same_model(model, read);
    // And once more: a file keeps every key and every byte.
    const Model again = write_and_read(read, "F32", temporary.path() / "b.gguf");
    CHECK(again.checkpoint().gguf->entries() == read.checkpoint().gguf->entries());
    const GgufFiles first = open_gguf(temporary.path() / "a.gguf"), second = open_gguf(temporary.path() / "b.gguf");
    REQUIRE(first.tensors.size() == second.tensors.size());
    for (size_t i = 0; i < first.tensors.size(); ++i) {
      INFO(first.tensors[i].name);
      CHECK(first.tensors[i].name == second.tensors[i].name);
      CHECK(std::ranges::equal(first.tensors[i].bytes, second.tensors[i].bytes));
    }
  }
}

TEST_CASE("Every tiny model is written as GGUF or refused", "[gguf][architectures]") {
  std::set<std::string> names = {"opt", "opt-350m", "opt-narrow", "llama-rope-dynamic", "llama-rope-longrope", "phi3-longrope", "falcon-refined", "mixtral", "mixtral-window", "qwen2-moe", "qwen2-moe-normed", "qwen3-moe", "stablelm-head-norms"};
  for (const Written& c : written()) names.insert(c.name);
  for (const auto& entry : std::filesystem::directory_iterator(golden_root())) CHECK(names.contains(entry.path().filename().string()));
}

TEST_CASE("What llama.cpp runs otherwise or does not load is refused with the reason", "[gguf][architectures]") {
  const struct {
    const char* name;
    json changes;
    const char* reason;
  } cases[] = {
      {"opt", no_changes, "llama.cpp has no architecture for OPTForCausalLM"},
      {"mixtral", no_changes, "MixtralForCausalLM has experts, which llmc writes to no GGUF file"},
      {"qwen2-moe", no_changes, "Qwen2MoeForCausalLM has experts"},
      {"stablelm-head-norms", no_changes, "StableLmForCausalLM has a norm of each head's own (qk_layernorm), which llmc writes to no GGUF file"},
      {"gpt2-untied", {{"activation_function", "relu"}}, "its activation is relu, but llama.cpp runs gpt2 with gelu_tanh"},
      {"llama-rope-dynamic", no_changes, "its rotary positions scale with the length of a sequence (dynamic), which llama.cpp does not"},
      {"mistral-window", no_changes, "its queries see 7 of 64 positions, but llama.cpp runs llama without a window; with max_position_embeddings of at most 7 both are the same"},
      {"phi3-part", no_changes, "its queries see 9 of 64 positions, but llama.cpp runs phi3 without a window"},
      {"gemma2", no_changes, "query_pre_attn_scalar is 20, but llama.cpp runs gemma2 of 3 blocks with 12"},
      {"gemma2", {{"query_pre_attn_scalar", 12}, {"attn_logit_softcapping", nullptr}}, "query_pre_attn_scalar"},
      {"gemma3", {{"query_pre_attn_scalar", 12}, {"attn_logit_softcapping", 5.0}}, "attn_logit_softcapping is 5, but llama.cpp runs gemma3 without"},
      {"gemma3", {{"query_pre_attn_scalar", 12}, {"rope_parameters", {{"sliding_attention", {{"rope_type", "linear"}, {"factor", 2.0}}}}}}, "rotary positions of its blocks with a window are scaled"},
      {"stablelm", {{"tie_word_embeddings", true}}, "its head is its embedding's matrix, but llama.cpp loads stablelm only with an output.weight of its own"},
      {"olmo2", {{"tie_word_embeddings", true}}, "llama.cpp loads olmo2 only with an output.weight"},
      {"gpt-neox", {{"tie_word_embeddings", true}}, "llama.cpp loads gptneox only with an output.weight"},
      {"gpt-neox", {{"attention_bias", false}}, "its attention has no biases, but llama.cpp loads gptneox only with them"},
      {"falcon-groups", no_changes, "its attention has biases, but llama.cpp loads falcon without"},
      {"falcon-refined", no_changes, "its positions are alibi, but llama.cpp runs falcon with rope"},
      {"falcon-refined", {{"alibi", false}}, "its feed-forward is behind its attention, but llama.cpp runs falcon with the two side by side"},
      {"phi3-longrope", no_changes, "its rotary positions have longrope's factors, which llmc does not write for llama.cpp"},
      {"llama-rope-longrope", no_changes, "longrope's factors"},
  };
  for (const auto& c : cases) {
    INFO(c.name << " " << c.changes.dump());
    // merge_patch takes a key away for null; Gemma 2's null means that there is no bound.
    json changes = c.changes;
    if (changes.contains("attn_logit_softcapping") && changes["attn_logit_softcapping"].is_null()) {
      Checkpoint checkpoint = open_checkpoint(golden_root() / c.name);
      checkpoint.config["query_pre_attn_scalar"] = 12;
      checkpoint.config["attn_logit_softcapping"] = nullptr;
      CHECK_THROWS_WITH(plan_gguf(place_tensors(std::move(checkpoint), {}), {.type = "F32"}), Contains("it lacks a softcapping of scores or of logits, but llama.cpp runs gemma2 with both"));
      continue;
    }
    const Model model = load_changed(c.name, changes);
    CHECK_THROWS_WITH(plan_gguf(model, {.type = "F32"}), Contains(c.name) && Contains(c.reason));
  }
}

TEST_CASE("Every GELU becomes llama.cpp's, and a note says where the model has the exact one", "[gguf][architectures]") {
  const struct {
    const char* name;
    json changes;
    bool is_exact;
  } cases[] = {
      {"gpt2-untied", no_changes, true}, {"gpt2-tied", no_changes, false}, {"gpt-neox", no_changes, true}, {"gpt-neox", {{"hidden_act", "gelu_fast"}}, false}, {"falcon", no_changes, true},
      {"gemma", no_changes, false}, {"gemma", {{"hidden_act", "gelu"}}, true}, {"llama-gqa-tied", no_changes, false},
  };
  for (const auto& c : cases) {
    INFO(c.name << " " << c.changes.dump());
    Model model = load_changed(c.name, c.changes);
    if (model.architecture().gguf.head == GgufHead::own && model.config().tied_head) model = untie_head(std::move(model), {});
    const std::vector<std::string> notes = plan_gguf(model, {.type = "F32"}).notes;
    CHECK(std::ranges::any_of(notes, [](const std::string& note) { return note.ends_with("with GELU's tanh approximation, the model has the exact one"); }) == c.is_exact);
  }
}

TEST_CASE("GGUF files that Hugging Face's names and norms of heads do not fit are refused", "[gguf][architectures]") {
  const TemporaryDirectory temporary;
  const auto path = temporary.path() / "a.gguf", changed = temporary.path() / "b.gguf";
  const struct {
    const char* model;
    std::vector<const char*> more;  ///< vectors
    const char* key;
    const char* message;
  } cases[] = {
      {"llama-gqa-tied", {"model.norm.weight"}, "", "tensor model.norm.weight: is there under this name, and as llama.cpp calls it"},
      {"stablelm", {"blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight"}, "", "norms of each head's own (qk_layernorm) are not read from GGUF files"},
      {"llama-gqa-tied", {}, "llama.note", "key llama.note: is not valid UTF-8"},
  };
  for (const auto& c : cases) {
    INFO(c.message);
    write_and_read(load_changed(c.model, no_changes), "F32", path);
    const GgufFiles files = open_gguf(path);
    GgufMetadata metadata = files.metadata;
    if (*c.key) metadata.set(c.key, gguf_string("\xff"));
    write_changed(changed, files, metadata, c.more);
    CHECK_THROWS_WITH(load_model(changed, {}, context()), Contains(changed.string()) && Contains(c.message));
  }
}

TEST_CASE("Keys of an architecture that lie are refused by name", "[gguf][architectures]") {
  const TemporaryDirectory temporary;
  const auto path = temporary.path() / "a.gguf", changed = temporary.path() / "b.gguf";
  const auto number = [](int64_t value) { return GgufValue{GgufValueType::i64, value}; };
  struct Lie {
    const char* key;
    GgufValue value;
    const char* message;
  };
  const auto check = [&](const char* name, const json& changes, const std::vector<Lie>& lies) {
    write_and_read(load_changed(name, changes), "F32", path);
    const GgufFiles files = open_gguf(path);
    for (const Lie& lie : lies) {
      INFO(lie.key << " " << lie.message);
      GgufMetadata metadata = files.metadata;
      REQUIRE((metadata.find(lie.key) || std::string_view(lie.key).ends_with("pattern")));
      metadata.set(lie.key, lie.value);
      write_changed(changed, files, metadata);
      CHECK_THROWS_WITH(load_model(changed, {}, context()), Contains("b.gguf") && Contains(lie.message));
    }
  };
  check("gemma2", gemma_scores, {
      {"gemma2.attention.head_count", number(0), "num_attention_heads"},
      {"gemma2.attention.head_count", number(-4), "num_attention_heads"},
      {"gemma2.attention.head_count", number(INT64_MAX), "num_attention_heads"},
      {"gemma2.attention.head_count_kv", number(3), "multiple"},
      {"gemma2.attention.head_count_kv", number(0), "num_key_value_heads"},
      {"gemma2.attention.key_length", number(INT64_MIN), "head_dim"},
      {"gemma2.attention.value_length", number(13), "key gemma2.attention.value_length: expected 12, the size of a head, found 13"},
      {"gemma2.attention.sliding_window", number(0), "key gemma2.attention.sliding_window: expected a positive number, found 0"},
      {"gemma2.attention.sliding_window", number(-1), "sliding_window"},
      {"gemma2.attention.sliding_window_pattern", gguf_bools({true, false}), "key gemma2.attention.sliding_window_pattern: expected 3 entries, one for each block, found 2"},
      {"gemma2.attention.sliding_window_pattern", gguf_string("2"), "key gemma2.attention.sliding_window_pattern: expected an integer"},
      {"gemma2.attention.sliding_window_pattern", gguf_strings({"a", "b", "c"}), "key gemma2.attention.sliding_window_pattern: expected an array of integers"},
      {"gemma2.attn_logit_softcapping", gguf_f32(-2), "attn_logit_softcapping"},
      {"gemma2.block_count", number(INT64_MAX), "num_hidden_layers"},
      {"gemma2.block_count", number(4), "model.layers.3"},
      {"gemma2.rope.dimension_count", number(6), "key gemma2.rope.dimension_count: expected 12, the size of a head, found 6"},
      {"gemma2.rope.freq_base", gguf_f32(0), "rope_theta"},
  });
  check("gpt-neox", no_changes, {
      {"gptneox.attention.head_count", number(3), "gptneox"},
      {"gptneox.attention.head_count_kv", number(2), "key gptneox.attention.head_count_kv: GPTNeoXForCausalLM has as many key/value heads as heads, found 2"},
      {"gptneox.attention.key_length", number(16), "key gptneox.attention.key_length: GPTNeoXForCausalLM has the hidden size over the number of heads, found 16"},
      {"gptneox.rope.dimension_count", number(9), "key gptneox.rope.dimension_count: expected at most 8, the size of a head, found 9"},
      {"gptneox.rope.dimension_count", number(1), "even number"},
      {"gptneox.use_parallel_residual", number(1), "key gptneox.use_parallel_residual: expected a boolean"},
  });
  check("bloom", no_changes, {{"bloom.feed_forward_length", number(96), "key bloom.feed_forward_length: BloomForCausalLM has four times the hidden size, found 96"}});
  check("falcon", no_changes, {{"falcon.attention.head_count", number(8), "falcon"}, {"falcon.embedding_length", number(INT64_MAX), "falcon"}});
}
