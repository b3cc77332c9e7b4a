#include "formats/gguf_mix.h"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/mapped_file.h"
#include "model/architecture.h"
#include "tests/catch.h"

using namespace llmc;

namespace {

nlohmann::json read_cases() {
  const MappedFile file(std::string(LLMC_SOURCE_DIR) + "/tests/golden/gguf/mixes.json");
  const auto* text = reinterpret_cast<const char*>(file.bytes().data());
  return nlohmann::json::parse(text, text + file.bytes().size());
}

/// Weights of 256 columns, in one layer of a model whose head is its embedding.
const MixInput embedding{"token_embd.weight", {8, 256}}, query{"blk.0.attn_q.weight", {8, 256}}, value{"blk.0.attn_v.weight", {8, 256}}, norm{"blk.0.attn_norm.weight", {256}}, narrow_down{"blk.0.ffn_down.weight", {8, 96}};
const MixFacts facts{.layers = 8, .heads = 4, .kv_heads = 4};

std::string types_of(const std::vector<ChosenType>& chosen) {
  std::string text;
  for (const ChosenType& choice : chosen) text += (text.empty() ? "" : " ") + (choice.type ? std::string(get_info(*choice.type).name) : "-") + (choice.instead_of ? "<" + std::string(get_info(*choice.instead_of).name) : "");
  return text;
}

}  // namespace

TEST_CASE("Every tensor of a mix gets the type that llama-quantize gives it", "[gguf]") {
  const auto golden = read_cases();
  for (const auto& test : golden.at("cases")) {
    const auto& model = golden.at("models").at(test.at("model").get<std::string>());
    const auto name = test.at("mix").get<std::string>(), letters = test.at("types").get<std::string>();
    const GgufArchitecture& gguf = get_architecture(model.at("architecture"), "mixes.json").gguf;
    const MixFacts of_model{.layers = model.at("layers"), .heads = model.at("heads"), .kv_heads = model.at("kv_heads"), .large = gguf.large, .family = gguf.mix, .importance = test.at("importance").get<bool>() ? MixImportance::given : MixImportance::none};
    std::vector<MixInput> tensors;
    for (size_t i = 0; i < model.at("names").size(); ++i) {
      const int64_t columns = model.at("columns").at(i);
      tensors.push_back({model.at("names").at(i), columns == 0 ? Shape{256} : Shape{2, columns}});
    }
    MixOverrides overrides{.rules = test.at("pure").get<bool>() ? MixRules::ignored : MixRules::used, .fallback = TypeFallback::allowed};
    const auto chosen = choose_gguf_types(get_gguf_mix(name, "--type"), of_model, overrides, tensors);
    REQUIRE(chosen.size() == letters.size());
    for (size_t i = 0; i < chosen.size(); ++i) {
      INFO(test.at("model") << " " << name << " " << tensors[i].name);
      const auto expected = golden.at("letters").at(std::string(1, letters[i])).get<std::string>();
      // What is not quantized keeps the type of the source: F32 vectors, F16 matrices.
      const std::string found = chosen[i].type ? std::string(get_info(*chosen[i].type).name) : tensors[i].shape.size() == 1 ? "F32" : "F16";
      CHECK(found == expected);
    }
  }
}

TEST_CASE("Overrides of a mix decide in llama-quantize's order", "[gguf]") {
  const GgufMix& mix = get_gguf_mix("q4_k", "--type");
  const std::vector<MixInput> tied = {embedding, query, value, norm}, untied = {embedding, {"output.weight", {8, 256}}, query, value};
  CHECK(mix.name == "Q4_K_M");
  CHECK(types_of(choose_gguf_types(mix, facts, {}, tied)) == "Q6_K Q4_K Q6_K -");
  CHECK(types_of(choose_gguf_types(mix, facts, {}, untied)) == "Q4_K Q6_K Q4_K Q6_K");
  CHECK(types_of(choose_gguf_types(mix, facts, {.rules = MixRules::ignored}, tied)) == "Q4_K Q4_K Q4_K -");
  CHECK(types_of(choose_gguf_types(mix, facts, {.output_tensor = OutputTensor::left}, untied)) == "Q4_K - Q4_K Q6_K");
  CHECK(types_of(choose_gguf_types(mix, facts, {.output_type = GgufType::q8_0}, untied)) == "Q4_K Q8_0 Q4_K Q6_K");
  CHECK(types_of(choose_gguf_types(mix, facts, {.output_type = GgufType::q8_0}, tied)) == "Q8_0 Q4_K Q6_K -");
  CHECK(types_of(choose_gguf_types(mix, facts, {.output_type = GgufType::q8_0, .embedding_type = GgufType::q5_0}, tied)) == "Q5_0 Q4_K Q6_K -");
  MixOverrides named;
  named.tensor_types.emplace_back(Pattern("attn_v"), GgufType::q8_0);
  named.tensor_types.emplace_back(Pattern("attn_"), GgufType::q3_k);
  CHECK(types_of(choose_gguf_types(mix, facts, named, tied)) == "Q6_K Q3_K Q8_0 -");
  CHECK(types_of(choose_gguf_types(get_gguf_mix("F16", "--type"), facts, named, tied)) == "F16 Q3_K Q8_0 -");
  CHECK(types_of(choose_gguf_types(get_gguf_mix("F16", "--type"), facts, {.output_type = GgufType::q8_0}, tied)) == "Q8_0 F16 F16 -");
  named.embedding_type = GgufType::f16;
  named.tensor_types.emplace_back(Pattern("token_embd"), GgufType::q8_0);  // decided already
  named.tensor_types.emplace_back(Pattern("ffn_dwn"), GgufType::q8_0);
  named.tensor_types.emplace_back(Pattern("norm"), GgufType::q8_0);  // no matrix
  CHECK_THROWS_WITH(choose_gguf_types(mix, facts, named, tied), Catch::Contains("pattern 'ffn_dwn' matches none of the GGUF file's matrices") && Catch::Contains("pattern 'norm' matches none") && Catch::Contains("pattern 'token_embd' matches none"));
}

TEST_CASE("Rows that are no whole blocks are refused, all at once, or fall back", "[gguf]") {
  const GgufMix& mix = get_gguf_mix("Q3_K_S", "--type");
  const std::vector<MixInput> tensors = {embedding, narrow_down, {"blk.0.ffn_up.weight", {8, 100}}};
  CHECK_THROWS_WITH(choose_gguf_types(mix, facts, {}, tensors), Catch::Contains("tensor blk.0.ffn_down.weight: rows of 96 weights, Q3_K stores blocks of 256 (llama.cpp would take Q4_0)") && Catch::Contains("blk.0.ffn_up.weight: rows of 100 weights, Q3_K stores blocks of 256 (llama.cpp would take F16)") && Catch::Contains("--allow-fallback"));
  CHECK(types_of(choose_gguf_types(mix, facts, {.fallback = TypeFallback::allowed}, tensors)) == "Q6_K Q4_0<Q3_K F16<Q3_K");
}

TEST_CASE("Names of mixes that are not known are refused", "[gguf]") {
  CHECK_THROWS_WITH(get_gguf_mix("Q4_K_X", "--type"), Catch::Contains("--type: GGUF type 'Q4_K_X' is not known (did you mean \"Q4_K_S\"?); expected one of F32, F16"));
}
