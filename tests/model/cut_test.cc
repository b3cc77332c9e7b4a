#include "model/cut.h"

#include <algorithm>
#include <numeric>

#include "model/forward.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

namespace llmc {
namespace {

using Catch::Matchers::Contains;

/// Sets what a tensor reads from there to zero, so that nothing depends on the columns.
void clear_columns(Model& model, Role role, int64_t block, const std::vector<int64_t>& columns) {
  for (const PlacedTensor& placed : model.tensors()) {
    if (placed.row->role != role || placed.block != block || placed.part != Part::weight) continue;
    Matrix values = read_matrix(*placed.tensor);
    for (int64_t r = 0; r < values.rows(); ++r)
      for (int64_t c : columns) values.row(r)[c] = 0;
    placed.tensor->form = make_floats(*placed.tensor, values.view());
  }
}

std::vector<int64_t> all_but(int64_t count, int64_t gone) {
  std::vector<int64_t> kept(static_cast<size_t>(count));
  std::iota(kept.begin(), kept.end(), 0);
  std::erase(kept, gone);
  return kept;
}

}  // namespace

TEST_CASE("A cut model computes what the whole one does when nothing reads what went", "[cut]") {
  for (const std::filesystem::path& directory : golden_models()) {
    CAPTURE(directory.filename().string());
    Model model = load_model(directory, {}, test::context());
    const ModelConfig config = model.config();
    const bool states_head_size = std::ranges::any_of(model.architecture().config, [](const ConfigRow& row) { return row.count == &ModelConfig::head_dim; });
    const bool has_norm_of_heads = model.find(Role::query_norm, 0) && model.get(Role::query_norm, 0).count() == config.query_width();
    const bool cuts_heads = states_head_size && config.kv_heads > 1 && !has_norm_of_heads;
    const int64_t shared = config.query_width() / config.kv_heads;
    Kept kept;
    Sizes sizes = sizes_of(config);
    const bool cuts_ffn = std::ranges::any_of(model.architecture().config, [](const ConfigRow& row) { return row.count == &ModelConfig::ffn; });
    sizes.ffn -= cuts_ffn, sizes.kv_groups -= cuts_heads;
    for (int64_t block = 0; block < config.layers; ++block) {
      const int64_t channel = 3 + block, group = block % config.kv_heads;
      if (cuts_ffn) {
        kept.ffn.push_back(all_but(config.ffn, channel));
        clear_columns(model, Role::ffn_down, block, {channel});
      }
      if (!cuts_heads) continue;
      kept.kv_groups.push_back(all_but(config.kv_heads, group));
      std::vector<int64_t> columns;
      for (int64_t c = 0; c < shared; ++c) columns.push_back(group * shared + c);
      clear_columns(model, Role::attention_output, block, columns);
    }
    const Matrix whole = logits_of(model, directory);
    const Model outline = outline_model(model, sizes);
    const Model cut = cut_model(std::move(model), kept);
    CHECK(sizes_of(cut.config()) == sizes);
    CHECK(cut.config().head_dim == config.head_dim);
    CHECK(test::largest_difference(whole, logits_of(cut, directory)) < 1e-5);  // sums of f32 in another order
    REQUIRE(outline.tensors().size() == cut.tensors().size());
    for (size_t i = 0; i < cut.tensors().size(); ++i) {
      CHECK(outline.tensors()[i].tensor->name == cut.tensors()[i].tensor->name);
      CHECK(outline.tensors()[i].tensor->shape == cut.tensors()[i].tensor->shape);
    }
    CHECK(outline.checkpoint().config == cut.checkpoint().config);
  }
}

TEST_CASE("Blocks that stay are renumbered and remember where they come from", "[cut]") {
  for (const char* name : {"llama-gqa-tied", "gpt2-noprefix", "qwen2-untied", "qwen3-untied", "gemma2", "gpt-neox", "opt"}) {
    const Model source = load_model(golden_root() / name, {}, test::context());
    Model model = load_model(golden_root() / name, {}, test::context());
    const int64_t last = model.config().layers - 1;
    const Model cut = cut_model(std::move(model), {.blocks = {last}, .kv_groups = {}, .ffn = {}, .hidden = {}, .tokens = {}});
    REQUIRE(cut.config().layers == 1);
    CHECK(cut.origin().blocks == std::vector{last});
    CHECK(source_block(cut.origin(), 0) == last);
    CHECK(source_block(cut.origin(), -1) == -1);
    for (const PlacedTensor& placed : cut.tensors()) {
      const StoredTensor& from = source.get(placed.row->role, source_block(cut.origin(), placed.block), placed.part);
      CHECK(test::same_bits(read_matrix(*placed.tensor), read_matrix(from)));
      CHECK_FALSE(placed.tensor->moved);
    }
  }
}

TEST_CASE("Sizes that config.json cannot say are refused with the field", "[cut]") {
  const auto problems_of = [](const char* name, auto change) {
    const Model model = load_model(golden_root() / name, {}, test::context());
    Sizes sizes = sizes_of(model.config());
    change(sizes);
    Problems problems;
    check_sizes(model, sizes, problems);
    return problems.list();
  };
  CHECK(problems_of("llama-gqa-tied", [](Sizes&) {}).empty());
  CHECK_THAT(problems_of("gpt2-tied", [](Sizes& s) { s.kv_groups -= 1; }).at(0), Contains("gpt2 has no field for the size of a head, which is n_embd / n_head"));
  CHECK_THAT(problems_of("gpt2-tied", [](Sizes& s) { s.hidden -= 1; }).at(0), Contains("hidden dimensions cannot be said"));
  CHECK_THAT(problems_of("llama-gqa-tied", [](Sizes& s) { s.hidden -= 1; }).at(0), Contains("no multiple of num_attention_heads"));
  CHECK_THAT(problems_of("llama-gqa-tied", [](Sizes& s) { s.ffn = 0; }).at(0), Contains("0 of") && Contains("feed-forward channels would stay"));
  CHECK_THAT(problems_of("bloom", [](Sizes& s) { s.ffn -= 1; }).at(0), Contains("bloom has no field for the size of the feed-forward, which is 4 · hidden_size"));
  CHECK_THAT(problems_of("bloom", [](Sizes& s) { s.kv_groups -= 1; }).at(1), Contains("(ALiBi) go by how many there are"));
  CHECK_THAT(problems_of("olmo2", [](Sizes& s) { s.kv_groups -= 1; }).at(0), Contains("Olmo2ForCausalLM takes the norm of all heads together"));
  CHECK_THAT(problems_of("gemma", [](Sizes& s) { s.hidden -= 1; }).at(0), Contains("GemmaForCausalLM multiplies embeddings by the root of how many there are"));
}

}  // namespace llmc
