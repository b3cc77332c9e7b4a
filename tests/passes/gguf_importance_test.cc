#include "passes/gguf_importance.h"

#include "calib/imatrix_collector.h"
#include "core/error.h"
#include "model/gguf_model.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;

namespace {

/// Sums of 2 in every column over 4 tokens, for every linear weight but the head.
Imatrix make_imatrix(const Model& model) {
  Imatrix imatrix;
  for (const PlacedTensor& placed : model.tensors())
    if (is_block_linear(placed)) imatrix.entries[gguf_tensor_name(placed)] = {.sums = std::vector<float>(static_cast<size_t>(placed.tensor->cols()), 2.0f), .count = 4};
  return imatrix;
}

/// Linear weights and embeddings, whatever their rows allow.
std::vector<GgufTarget> find_targets(const Model& model) {
  std::vector<GgufTarget> targets;
  for (const PlacedTensor& placed : model.tensors())
    if (!is_vector(placed)) targets.push_back({.placed = &placed, .type = &get_info(GgufType::q8_0)});
  return targets;
}

}  // namespace

TEST_CASE("Entries of an importance matrix find their tensors; embeddings need none, heads may lack theirs", "[imatrix]") {
  for (const char* name : {"llama-gqa-tied", "llama-mha-untied", "gpt2-tied", "llama-bias"}) {
    INFO(name);
    const Model model = load_model(golden_root() / name, {}, test::context());
    const std::vector<GgufTarget> targets = find_targets(model);
    Imatrix imatrix = make_imatrix(model);
    for (bool has_head : {false, true}) {
      if (has_head) imatrix.entries[model.config().tied_head ? "token_embd.weight" : "output.weight"] = {.sums = std::vector<float>(static_cast<size_t>(model.config().hidden), 3.0f), .count = 1};
      const auto importance = find_importance(imatrix, model, targets, "i.gguf");
      REQUIRE(importance.size() == targets.size());
      for (size_t i = 0; i < targets.size(); ++i) {
        INFO(targets[i].placed->tensor->name);
        const bool in_block = targets[i].placed->block >= 0, is_head = targets[i].placed->tensor == &model.get(Role::output_head);
        const size_t columns = in_block || (is_head && has_head) ? static_cast<size_t>(targets[i].placed->tensor->cols()) : 0;
        CHECK(importance[i] == std::vector<float>(columns, in_block ? 0.5f : 3.0f));
      }
    }
  }
}

TEST_CASE("An importance matrix of another model is refused, with every problem", "[imatrix]") {
  const Model model = load_model(golden_root() / "llama-mha-untied", {}, test::context());
  const std::vector<GgufTarget> targets = find_targets(model);
  Imatrix imatrix = make_imatrix(model);
  imatrix.entries.erase("blk.1.attn_k.weight");
  imatrix.entries["blk.0.ffn_down.weight"].sums.pop_back();
  imatrix.entries["blk.99.ffn_up.weight"] = {.sums = {1}, .count = 1};
  imatrix.entries["token_embd.weight"] = {.sums = std::vector<float>(static_cast<size_t>(model.config().hidden)), .count = 1};  // the head is not tied to it
  imatrix.entries["blk.0.attn_norm.weight"] = {.sums = {1}, .count = 1};
  const int64_t ffn = model.config().ffn;
  CHECK_THROWS_WITH(find_importance(imatrix, model, targets, "i.gguf"),
                    Contains("i.gguf") && Contains("tensor model.layers.1.self_attn.k_proj.weight: expected an entry blk.1.attn_k.weight, found none") && Contains("entry blk.0.ffn_down.weight: expected " + std::to_string(ffn) + " columns, those of tensor model.layers.0.mlp.down_proj.weight, found " + std::to_string(ffn - 1)) && Contains("entry blk.99.ffn_up.weight: the model has no linear weight of that name") && Contains("entry token_embd.weight: the model has no linear weight") && Contains("entry blk.0.attn_norm.weight: the model has no linear weight"));
}
