#include "model/config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "model/architecture.h"
#include "tests/catch.h"

using namespace llmc;
using nlohmann::json;
using Catch::Matchers::Contains;

namespace {

json llama() {
  return {{"model_type", "llama"}, {"architectures", {"LlamaForCausalLM"}}, {"vocab_size", 96}, {"hidden_size", 64}, {"intermediate_size", 128}, {"num_hidden_layers", 2}, {"num_attention_heads", 4}, {"num_key_value_heads", 2}, {"max_position_embeddings", 128}, {"rms_norm_eps", 1e-5}, {"hidden_act", "silu"}};
}

json qwen2() {
  json config = llama();
  config["model_type"] = "qwen2";
  config["architectures"] = {"Qwen2ForCausalLM"};
  return config;
}

ModelConfig read(const json& object, const std::set<std::string>& ignored = {}) { return read_config(object, get_architecture(object.at("model_type"), "c"), ignored, "config.json"); }

json with(json object, const std::string& key, json value) {
  object[key] = std::move(value);
  return object;
}

}  // namespace

TEST_CASE("rope_theta is found at the top and inside rope_parameters", "[config]") {
  CHECK(read(llama()).rope.theta == 10000);
  CHECK(read(with(llama(), "rope_theta", 5000.0)).rope.theta == 5000);
  CHECK(read(with(llama(), "rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7000.0}})).rope.theta == 7000);
  CHECK(read(with(llama(), "rope_scaling", nullptr)).rope.theta == 10000);
  CHECK_THROWS_WITH(read(with(with(llama(), "rope_theta", 1.0), "rope_parameters", {{"rope_theta", 2.0}})), Contains("1 at the top and 2 in rope_parameters"));
}

TEST_CASE("scaled rotary positions are read in either style", "[config]") {
  const Rope linear = read(with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 4.0}})).rope;
  CHECK(linear == read(with(llama(), "rope_parameters", {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 10000.0}})).rope);
  CHECK((linear.scaling == RopeScaling::linear && linear.factor == 4 && linear.dim == 16));
  const json yarn = {{"rope_type", "yarn"}, {"factor", 8.0}, {"original_max_position_embeddings", 32}};
  CHECK(read(with(llama(), "rope_scaling", yarn)).rope.original_context == 32);
  CHECK(read(with(llama(), "rope_scaling", yarn)).rope.magnitude == Approx(0.1 * std::log(8) + 1));
  CHECK(read(with(llama(), "rope_scaling", with(yarn, "attention_factor", 1.5))).rope.magnitude == 1.5);
  CHECK(read(with(llama(), "rope_scaling", with(with(yarn, "mscale", 2.0), "mscale_all_dim", 1.0))).rope.magnitude == Approx((0.2 * std::log(8) + 1) / (0.1 * std::log(8) + 1)));
  CHECK(read(with(llama(), "rope_scaling", with(yarn, "truncate", false))).rope.whole_ramp == false);
  CHECK(read(with(llama(), "rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}})).rope.original_context == 128);
}

TEST_CASE("experts are read in the words of each architecture, and their widths together are the feed-forward's", "[config]") {
  json mixtral = llama(), qwen = llama();
  mixtral.update({{"model_type", "mixtral"}, {"architectures", {"MixtralForCausalLM"}}, {"num_local_experts", 6}, {"num_experts_per_tok", 3}});
  qwen.update({{"model_type", "qwen2_moe"}, {"architectures", {"Qwen2MoeForCausalLM"}}, {"num_experts", 6}, {"moe_intermediate_size", 32}, {"shared_expert_intermediate_size", 48}, {"mlp_only_layers", json::array()}});
  const ModelConfig of_mixtral = read(mixtral), of_qwen = read(qwen);
  CHECK((of_mixtral.experts == 6 && of_mixtral.experts_per_token == 3 && of_mixtral.expert_ffn == 128 && of_mixtral.ffn == 6 * 128 && of_mixtral.normalizes_routing));
  CHECK(of_mixtral.rope.theta == 1e6);
  CHECK((of_qwen.experts_per_token == 4 && of_qwen.ffn == 6 * 32 + 48 && !of_qwen.normalizes_routing && of_qwen.attention_bias));
  CHECK(read(with(qwen, "norm_topk_prob", true)).normalizes_routing);
  CHECK_THROWS_WITH(read(with(mixtral, "num_experts_per_tok", 7)), Contains("field \"num_experts_per_tok\": 7 of 6 experts") && Contains("num_local_experts"));
  CHECK_THROWS_WITH(read(with(mixtral, "num_local_experts", 0)), Contains("field \"num_local_experts\": expected 1 to"));
  CHECK_THROWS_WITH(read(with(mixtral, "num_local_experts", 65537)), Contains("field \"num_local_experts\": expected at most 65536"));
  CHECK_THROWS_WITH(read(with(qwen, "moe_intermediate_size", 1 << 30)), Contains("field \"num_experts\": 6 experts of 1073741824"));
  CHECK_THROWS_WITH(read(with(qwen, "mlp_only_layers", {1})), Contains("field \"mlp_only_layers\": expected []") && Contains("found [1]"));
  CHECK_THROWS_WITH(read(with(qwen, "decoder_sparse_step", 2)), Contains("field \"decoder_sparse_step\": expected 1"));
}

TEST_CASE("derived sizes", "[config]") {
  CHECK(read(llama()).head_dim == 16);
  CHECK(read(with(llama(), "head_dim", 32)).query_width() == 128);
  json mha = llama();
  mha.erase("num_key_value_heads");
  CHECK(read(mha).kv_heads == 4);
  const json gpt2 = {{"model_type", "gpt2"}, {"vocab_size", 10}, {"n_embd", 8}, {"n_layer", 1}, {"n_head", 2}, {"n_positions", 16}, {"n_inner", nullptr}};
  CHECK(read(gpt2).ffn == 32);
  CHECK(read(gpt2).tied_head);
  CHECK(read(gpt2).activation == Activation::gelu_tanh);
}

TEST_CASE("what changes the maths and is not understood is refused by name", "[config]") {
  const struct {
    json config;
    const char* message;
  } cases[] = {
      {with(llama(), "rope_scaling", {{"rope_type", "longrope"}, {"factor", 8.0}}), "field \"short_factor\" is missing"},
      {with(llama(), "rope_scaling", {{"type", "su"}}), "rope type \"su\""},
      {with(llama(), "rope_scaling", {{"type", "linear"}, {"rope_type", "yarn"}}), "rope_type is \"yarn\" and type is \"linear\""},
      {with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 0}}), "rope_scaling: field \"factor\": expected a positive number"},
      {with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 2}, {"beta_fast", 3}}), "field \"rope_scaling.beta_fast\": 3 is not understood"},
      {with(llama(), "rope_scaling", {{"type", "llama3"}, {"factor", 2}, {"low_freq_factor", 4}, {"high_freq_factor", 1}}), "expected more than low_freq_factor, 4, found 1"},
      {with(with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 2}}), "rope_parameters", {{"rope_type", "default"}}), "say different things"},
      {with(llama(), "partial_rotary_factor", 0.5), "\"partial_rotary_factor\": 0.5 is not understood"},
      {with(llama(), "rope_parameters", {{"rope_theta", 1e4}, {"mystery", 1}}), "--ignore-config-field rope_parameters.mystery"},
      {with(llama(), "rope_parameters", {{"partial_rotary_factor", 0.5}}), "partial_rotary_factor 0.5"},
      {with(llama(), "hidden_act", "mish"), "activation \"mish\""},
      {with(llama(), "sliding_window", 4096), "field \"sliding_window\": 4096 is not understood"},
      {with(llama(), "rope_interleaved", true), "\"rope_interleaved\": expected false"},
      {with(llama(), "layer_types", {"full_attention", "sliding_attention"}), "\"layer_types\": block 1: expected \"full_attention\""},
      {with(llama(), "is_encoder_decoder", true), "\"is_encoder_decoder\": expected false"},
      {with(llama(), "architectures", {"LlamaForSequenceClassification"}), "expected LlamaForCausalLM, found LlamaForSequenceClassification"},
      {with(llama(), "hidden_size", "64"), "\"hidden_size\": expected an integer"},
      {with(llama(), "hidden_size", 0), "\"hidden_size\": expected 1 to"},
      {with(llama(), "hidden_size", 1LL << 40), "\"hidden_size\": expected 1 to"},
      {with(llama(), "hidden_size", nullptr), "\"hidden_size\" is missing"},
      {with(llama(), "hidden_size", 66), "66 is not a multiple of 4 attention heads"},
      {with(llama(), "num_key_value_heads", 3), "4 attention heads are not a multiple of 3"},
      {with(llama(), "head_dim", 15), "even number of values of each head, found 15 of 15"},
      {with(llama(), "rms_norm_eps", -1), "\"rms_norm_eps\": expected a positive number"},
      {with(llama(), "rope_theta", 0), "\"rope_theta\": expected a positive number"},
      {with(llama(), "tie_word_embeddings", "yes"), "expected true or false"},
  };
  for (const auto& c : cases) {
    INFO(c.message);
    CHECK_THROWS_WITH(read(c.config), Contains("config.json") && Contains(c.message));
  }
  CHECK_THROWS_WITH(read(with(with(llama(), "hidden_act", "mish"), "surprise", 1)), Contains("2 problems"));
  CHECK_THROWS_WITH(get_architecture("lama", "c"), Contains("did you mean \"llama\""));
  const json gpt2 = {{"model_type", "gpt2"}, {"vocab_size", 10}, {"n_embd", 8}, {"n_layer", 1}, {"n_head", 2}, {"n_positions", 16}, {"scale_attn_by_inverse_layer_idx", true}};
  CHECK_THROWS_WITH(read(gpt2), Contains("scale_attn_by_inverse_layer_idx"));
}

TEST_CASE("What published config.json files carry and transformers does not read is let through", "[config]") {
  json published = llama();
  published.update({{"auto_map", {{"AutoConfig", "x.Y"}}}, {"is_llama_config", true}, {"rope_interleaved", false}, {"pretraining_tp", 2}, {"unsloth_version", "2025.3"}, {"transformers.js_config", json::object()}, {"max_sequence_length", 99}, {"layer_types", {"full_attention", "full_attention"}}, {"sliding_window", nullptr}, {"invented", nullptr}});
  CHECK(read(published) == read(llama()));
  CHECK(read(with(published, "architectures", {"LLaMAForCausalLM"})) == read(llama()));
  CHECK(read(with(published, "architectures", {"LlamaModel"})) == read(llama()));
  const json yarn = {{"type", "yarn"}, {"factor", 2}, {"finetuned", true}, {"attn_factor", 0.8}, {"beta_fast", nullptr}};
  CHECK(read(with(llama(), "rope_scaling", yarn)).rope == read(with(llama(), "rope_scaling", {{"type", "yarn"}, {"factor", 2}})).rope);
  CHECK(read(with(llama(), "hidden_act", "gelu_fast")).activation == Activation::gelu_tanh);
}

TEST_CASE("Fields of nested objects can be vouched for", "[config]") {
  const json odd = with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 2}, {"mystery", 1}});
  CHECK_THROWS_WITH(read(odd), Contains("--ignore-config-field rope_scaling.mystery"));
  CHECK_THROWS_WITH(read_config(odd, get_architecture("llama", "c"), {"rope_scaling.other", "rope.mystery"}, "config.json"), Contains("rope_scaling.mystery"));
  CHECK(read_config(odd, get_architecture("llama", "c"), {"rope_scaling.mystery", "rope_scaling.factor"}, "config.json").rope.factor == 2);  // what is understood stays
}

TEST_CASE("Scaled positions make room for longer texts", "[config]") {
  CHECK(read(llama()).longest_text() == 128);
  CHECK(read(with(llama(), "rope_scaling", {{"type", "dynamic"}, {"factor", 4}, {"original_max_position_embeddings", 64}})).longest_text() == 512);
  CHECK(read(with(llama(), "rope_scaling", {{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 64}})).longest_text() == 256);
  CHECK(read(with(llama(), "rope_scaling", {{"type", "yarn"}, {"factor", 1.5}, {"original_max_position_embeddings", 64}})).longest_text() == 128);
  CHECK(read(with(llama(), "rope_scaling", {{"type", "yarn"}, {"factor", 1e300}})).longest_text() == int64_t{1} << 31);
  CHECK(read(with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 4}})).longest_text() == 128);  // says nothing of whether the context is that before or after
}

TEST_CASE("a window that is switched off says nothing, one that is on is refused", "[config]") {
  const json off = with(with(with(qwen2(), "use_sliding_window", false), "sliding_window", 32), "max_window_layers", 1);
  CHECK(read(off).context == 128);
  CHECK(read(with(off, "layer_types", {"full_attention", "full_attention"})).layers == 2);
  CHECK(read(with(qwen2(), "sliding_window", nullptr)).head_dim == 16);
  CHECK_THROWS_WITH(read(with(off, "use_sliding_window", true)), Contains("\"use_sliding_window\": expected false (llmc implements no other), found true"));
  CHECK_THROWS_WITH(read(with(off, "layer_types", {"full_attention", "sliding_attention"})), Contains("\"layer_types\": block 1: expected \"full_attention\" (llmc implements no other), found \"sliding_attention\""));
  CHECK_THROWS_WITH(read(with(off, "layer_types", {"full_attention"})), Contains("\"layer_types\": expected a list of 2 entries, one for each block, found 1"));
  CHECK_THROWS_WITH(read(with(off, "layer_types", "full_attention")), Contains("found \"full_attention\""));
  CHECK_THROWS_WITH(read(with(qwen2(), "use_mrope", true)), Contains("\"use_mrope\": expected false"));
  CHECK_THROWS_WITH(read(with(qwen2(), "attention_bias", false)), Contains("\"attention_bias\": false is not understood"));
}

TEST_CASE("Mistral's window is 4096 where nothing is said, and none where null is", "[config]") {
  json config = llama();
  config["model_type"] = "mistral";
  config["architectures"] = {"MistralForCausalLM"};
  CHECK(read(config).window == 4096);
  CHECK(read(with(config, "sliding_window", nullptr)).window == 0);
  CHECK(read(with(config, "sliding_window", 32)).window == 32);
  CHECK_THROWS_WITH(read(with(config, "sliding_window", 0)), Contains("\"sliding_window\": expected 1 to"));
  CHECK(read(with(llama(), "num_key_value_heads", nullptr)).kv_heads == 4);
}

namespace {

json gemma(const char* type, const char* name) {
  json config = llama();
  config["model_type"] = type;
  config["architectures"] = {name};
  config.erase("hidden_act");
  return config;
}

}  // namespace

TEST_CASE("Gemma's windows hold in some blocks, by a list or by a period", "[config]") {
  const json second = with(gemma("gemma2", "Gemma2ForCausalLM"), "num_hidden_layers", 3), third = with(gemma("gemma3_text", "Gemma3ForCausalLM"), "num_hidden_layers", 7);
  CHECK(read(second).windowed == std::vector<bool>{true, false, true});
  CHECK(read(third).windowed == std::vector<bool>{true, true, true, true, true, false, true});
  CHECK(read(with(third, "sliding_window_pattern", 3)).windowed == std::vector<bool>{true, true, false, true, true, false, true});
  CHECK(read(with(second, "layer_types", {"full_attention", "full_attention", "sliding_attention"})).windowed == std::vector<bool>{false, false, true});
  const ModelConfig config = read(with(second, "sliding_window", 9));
  CHECK((config.at_block(0).window == 9 && config.at_block(1).window == 0));
  CHECK((config.score_cap == 50 && config.logit_cap == 30 && config.score_divisor == 256 && config.head_dim == 256));
  CHECK((read(with(second, "attn_logit_softcapping", nullptr)).score_cap == 0 && read(third).logit_cap == 0));
  CHECK_THROWS_WITH(read(with(second, "layer_types", {"full_attention", "full_attention", "chunked_attention"})), Contains("\"layer_types\": block 2: expected sliding_attention or full_attention, found \"chunked_attention\""));
  CHECK_THROWS_WITH(read(with(second, "layer_types", {"full_attention"})), Contains("expected a list of 3 entries, one for each block, found 1"));
  CHECK_THROWS_WITH(read(with(second, "sliding_window_pattern", 3)), Contains("\"sliding_window_pattern\": 3 is not understood"));
  CHECK_THROWS_WITH(read(with(second, "attn_logit_softcapping", -1)), Contains("expected a positive number"));
  CHECK_THROWS_WITH(read(with(second, "use_bidirectional_attention", true)), Contains("use_bidirectional_attention"));
}

TEST_CASE("Gemma 3 has two kinds of rotary positions, in either style", "[config]") {
  const json old = gemma("gemma3_text", "Gemma3ForCausalLM");
  CHECK((read(old).rope.theta == 1000000 && read(old).window_rope.theta == 10000));
  const ModelConfig stated = read(with(with(with(old, "rope_theta", 5000), "rope_local_base_freq", 70), "rope_scaling", {{"rope_type", "linear"}, {"factor", 8}}));
  CHECK((stated.rope.theta == 5000 && stated.rope.factor == 8 && stated.window_rope.theta == 70 && stated.window_rope.scaling == RopeScaling::none));
  const json both = {{"full_attention", {{"rope_type", "linear"}, {"factor", 8}, {"rope_theta", 5000}}}, {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 70}}}};
  const ModelConfig nested = read(with(old, "rope_parameters", both));
  CHECK((nested.rope == stated.rope && nested.window_rope == stated.window_rope));
  CHECK((nested.at_block(0).rope == nested.window_rope && nested.at_block(5 % nested.layers).rope == nested.window_rope));
  CHECK_THROWS_WITH(read(with(old, "rope_parameters", {{"rope_theta", 5000}})), Contains("unknown field \"rope_theta\""));
}

TEST_CASE("What only some architectures know of rotary positions is refused in the others", "[config]") {
  json phi = llama();
  phi["model_type"] = "phi3", phi["architectures"] = {"Phi3ForCausalLM"};
  CHECK(read(with(phi, "partial_rotary_factor", 0.5)).rope.dim == 8);
  CHECK_THROWS_WITH(read(with(phi, "rope_scaling", {{"type", "linear"}, {"factor", 2}})), Contains("rope type \"linear\" is not supported in Phi3ForCausalLM"));
  CHECK_THROWS_WITH(read(with(phi, "rope_scaling", {{"type", "su"}, {"short_factor", {1}}})), Contains("\"long_factor\" is missing"));
  CHECK_THROWS_WITH(read(with(phi, "partial_rotary_factor", 1.5)), Contains("found 24 of 16"));
  const json neox = {{"model_type", "gpt_neox"}, {"vocab_size", 10}, {"hidden_size", 32}, {"intermediate_size", 8}, {"num_hidden_layers", 1}, {"num_attention_heads", 2}, {"rotary_pct", 0.5}, {"rotary_emb_base", 500}};
  CHECK((read(neox).rope.dim == 8 && read(neox).rope.theta == 500 && read(neox).parallel));
  CHECK_THROWS_WITH(read(with(neox, "rope_theta", 5)), Contains("\"rope_theta\" is 5, but rotary_emb_base is 500"));
  CHECK(read(with(with(neox, "rope_theta", 500), "partial_rotary_factor", 0.5)).rope.dim == 8);
  json saved_again = with(with(neox, "rope_parameters", {{"rope_type", "default"}, {"rope_theta", 500}, {"partial_rotary_factor", 1.0}}), "partial_rotary_factor", 1.0);
  saved_again.erase("rotary_pct");
  CHECK(read(saved_again).rope.dim == 16);
  CHECK_THROWS_WITH(read(with(saved_again, "partial_rotary_factor", 0.5)), Contains("\"partial_rotary_factor\" is 0.5, but rotary_pct is 1"));
  CHECK_THROWS_WITH(read(with(neox, "partial_rotary_factor", 0.25)), Contains("\"partial_rotary_factor\" is 0.25, but rotary_pct is 0.5"));
}

TEST_CASE("Keys with two names and keys that repeat a size must agree", "[config]") {
  const json bloom = {{"model_type", "bloom"}, {"vocab_size", 10}, {"n_embed", 8}, {"num_hidden_layers", 1}, {"n_head", 2}};
  CHECK((read(bloom).hidden == 8 && read(bloom).layers == 1 && read(bloom).ffn == 32));
  CHECK(read(with(bloom, "num_attention_heads", 2)).heads == 2);
  CHECK_THROWS_WITH(read(with(bloom, "num_attention_heads", 4)), Contains("\"num_attention_heads\": n_head is 2; expected the same"));
  CHECK_THROWS_WITH(read(with(bloom, "apply_residual_connection_post_layernorm", true)), Contains("expected false"));
  const json falcon = {{"model_type", "falcon"}, {"vocab_size", 10}, {"hidden_size", 8}, {"num_hidden_layers", 1}, {"num_attention_heads", 4}, {"num_kv_heads", 2}};
  CHECK((read(falcon).kv_heads == 1 && read(with(falcon, "new_decoder_architecture", true)).kv_heads == 2 && read(falcon).parallel));
  const json opt = {{"model_type", "opt"}, {"vocab_size", 10}, {"hidden_size", 8}, {"ffn_dim", 8}, {"num_hidden_layers", 1}, {"num_attention_heads", 2}, {"word_embed_proj_dim", 8}};
  CHECK((read(opt).norm_epsilon == 1e-5 && read(opt).position_offset == 2));
  CHECK((read(with(opt, "word_embed_proj_dim", 4)).embedding_width() == 4 && read(opt).embedding_width() == 8 && !read(opt).projects_embedding));
  CHECK((!read(with(opt, "do_layer_norm_before", false)).norms_before_sum && read(opt).norms_before_sum));
  CHECK_THROWS_WITH(read(with(opt, "_remove_final_layer_norm", true)), Contains("expected false"));
}

TEST_CASE("Falcon's fields go together as transformers runs them", "[config]") {
  const json falcon = {{"model_type", "falcon"}, {"vocab_size", 10}, {"hidden_size", 8}, {"num_hidden_layers", 1}, {"num_attention_heads", 4}};
  const json grouped = with(with(falcon, "new_decoder_architecture", true), "num_kv_heads", 2);
  CHECK((read(with(falcon, "alibi", true)).positions == Positions::rounded_alibi && read(falcon).positions == Positions::rope));
  CHECK((!read(falcon).two_norms && read(grouped).two_norms && !read(with(grouped, "num_ln_in_parallel_attn", 1)).two_norms && read(with(grouped, "num_ln_in_parallel_attn", 1)).kv_heads == 2));
  CHECK((read(with(falcon, "multi_query", false)).kv_heads == 4 && !read(with(falcon, "parallel_attn", false)).parallel));
  CHECK_THROWS_WITH(read(with(with(falcon, "multi_query", false), "num_kv_heads", 2)), Contains("\"num_kv_heads\": expected 4, as many as heads") && Contains("found 2"));
  CHECK_THROWS_WITH(read(with(grouped, "parallel_attn", false)), Contains("\"parallel_attn\": expected true with new_decoder_architecture"));
  CHECK_THROWS_WITH(read(with(falcon, "num_ln_in_parallel_attn", 2)), Contains("\"num_ln_in_parallel_attn\": expected 1 without new_decoder_architecture, found 2"));
  CHECK_THROWS_WITH(read(with(grouped, "num_ln_in_parallel_attn", 3)), Contains("expected 1 or 2, found 3"));
}

TEST_CASE("longrope's factors are read, and what follows from them", "[config]") {
  json rope = {{"rope_type", "longrope"}, {"short_factor", json::array({1, 1, 1, 1, 2, 2, 2, 2})}, {"long_factor", json::array({1, 2, 3, 4, 5, 6, 7, 8})}, {"original_max_position_embeddings", 32}};
  const Rope read_rope = read(with(llama(), "rope_scaling", rope)).rope;
  CHECK((read_rope.original_context == 32 && read_rope.factor == 4 && read_rope.long_factors[7] == 8 && read_rope.short_factors[4] == 2));
  CHECK(read_rope.magnitude == Approx(std::sqrt(1 + std::log(4.0) / std::log(32.0))));
  CHECK(read(with(llama(), "rope_scaling", with(rope, "attention_factor", 1.5))).rope.magnitude == 1.5);
  CHECK(read(with(llama(), "rope_scaling", with(rope, "factor", 8))).rope.magnitude == Approx(std::sqrt(1 + std::log(8.0) / std::log(32.0))));
  CHECK((read_rope.depends_on(33) && !read_rope.depends_on(32)));
  CHECK_THROWS_WITH(read(with(llama(), "rope_scaling", with(rope, "long_factor", json::array({1, 2})))), Contains("\"long_factor\": expected 8 factors, one for each pair that is rotated, found 2"));
  CHECK_THROWS_WITH(read(with(llama(), "rope_scaling", with(rope, "short_factor", json::array({1, "a"})))), Contains("\"short_factor\": expected a list of numbers, found \"a\""));
  CHECK_THROWS_WITH(read(with(llama(), "rope_scaling", with(rope, "short_factor", 3))), Contains("expected a list of numbers, found 3"));
  CHECK_THROWS_WITH(read(with(llama(), "rope_scaling", with(rope, "short_factor", json::array({0})))), Contains("expected a positive number, found 0"));
}

TEST_CASE("a field that the user vouches for is let through", "[config]") {
  CHECK(read(with(llama(), "sliding_window", 4096), {"sliding_window"}).hidden == 64);
}
