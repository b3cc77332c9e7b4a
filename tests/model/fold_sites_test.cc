#include "model/fold_sites.h"

#include <cmath>

#include "model/forward.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;

namespace {

/// Log-uniform from 1/8 to 8.
std::vector<float> random_scales(int64_t count, const std::string& name) {
  Random random(3, name);
  std::vector<float> scales(static_cast<size_t>(count));
  for (float& scale : scales) scale = static_cast<float>(std::exp2(6 * random.uniform() - 3));
  return scales;
}

}  // namespace

TEST_CASE("rescaling a fold site does not change what a model computes", "[fold]") {
  for (const std::filesystem::path& directory : golden_models()) {
    Model model = load_model(directory, {}, test::context());
    const Matrix before = logits_of(model, directory);
    std::vector<Role> producers;
    for (int64_t block = 0; block < model.config().layers; ++block)
      for (const FoldSite& site : find_fold_sites(model, block)) {
        if (block == 0) producers.push_back(site.producer);
        const Role consumer = site.consumers.front();
        const int64_t expert = is_of_each_expert(consumer) ? model.config().experts - 1 : -1;
        const Matrix weight = read_matrix(model.get(consumer, block, Part::weight, expert));
        const std::vector<float> scales = random_scales(site.channels, to_string(site));
        const std::vector<float> effective = scale_channels(model, site, scales);
        for (size_t j = 0; j < scales.size(); ++j) REQUIRE(std::abs(effective[j] / scales[j] - 1) <= 0x1p-8);  // at most bf16's half step of 2^-9, twice for luck
        const Matrix scaled = read_matrix(model.get(consumer, block, Part::weight, expert));
        for (size_t c = 0; c < site.channel_of.size(); ++c) REQUIRE(scaled.values()[c] == weight.values()[c] * effective[static_cast<size_t>(site.channel_of[c])]);
      }
    CAPTURE(directory.filename().string());
    std::vector<Role> expected;
    if (model.find(Role::attention_norm, 0) && (model.find(Role::ffn_norm, 0) || !model.config().parallel)) expected.push_back(Role::attention_norm);
    expected.push_back(model.find(Role::query_key_value, 0) ? Role::query_key_value : Role::value);
    if (model.find(Role::ffn_norm, 0)) expected.push_back(Role::ffn_norm);
    if (model.find(Role::ffn_gate_up, 0)) expected.push_back(Role::ffn_gate_up);
    else if (model.find(Role::ffn_gate, 0) || model.config().activation == Activation::relu) expected.push_back(Role::ffn_up);
    CHECK(producers == expected);
    // Every product of f32 numbers is rounded anew: some 2^-24 of logits up to 8, grown by the sums, as in forward_test.
    CHECK(test::largest_difference(logits_of(model, directory), before) <= 1e-4);

    for (const PlacedTensor& placed : model.tensors()) round_floats(*placed.tensor);
    // Rounding the weights once more to a 16-bit type: 2^-9 (bf16) or 2^-12 (f16) of each, as in forward_test.
    const bool is_narrow = model.get(Role::output_head).dtype != DType::f32;
    CHECK(test::largest_difference(logits_of(model, directory), before) <= (is_narrow ? 0.1 : 1e-4));
  }
}

TEST_CASE("a rescaled norm keeps its dtype, and the consumers undo its rounded weight", "[fold]") {
  const std::filesystem::path directory = golden_root() / "llama-bf16";
  Model model = load_model(directory, {}, test::context());
  const Matrix before = read_matrix(model.get(Role::ffn_norm, 0));
  const FoldSite site = find_fold_sites(model, 0)[2];
  REQUIRE(site.producer == Role::ffn_norm);
  const std::vector<float> effective = scale_channels(model, site, random_scales(site.channels, "norm"));
  const StoredTensor& norm = model.get(Role::ffn_norm, 0);
  CHECK(norm.dtype == DType::bf16);
  CHECK(std::get<FloatData>(norm.form).find_unrounded() == nullptr);
  const Matrix after = read_matrix(norm);
  for (size_t j = 0; j < effective.size(); ++j) CHECK(after.values()[j] * effective[j] == Approx(before.values()[j]).epsilon(0x1p-22));  // one f32 division
}

TEST_CASE("query heads that share a kv head share its scales", "[fold]") {
  const Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());  // 4 heads on 2
  const FoldSite site = find_fold_sites(model, 1)[1];
  CHECK(to_string(site) == "block 1: value → attention_output");
  const int64_t dim = model.config().head_dim;
  REQUIRE(site.channels == 2 * dim);
  REQUIRE(static_cast<int64_t>(site.channel_of.size()) == 4 * dim);
  for (int64_t head = 0; head < 4; ++head) CHECK(site.channel_of[static_cast<size_t>(head * dim + 1)] == head / 2 * dim + 1);
}

TEST_CASE("a site with a quantized tensor is none", "[fold]") {
  Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  for (const PlacedTensor& placed : model.tensors())
    if (placed.row->role == Role::ffn_down && placed.block == 0) placed.tensor->form = QuantizedMatrix();
  CHECK(find_fold_sites(model, 0).size() == 3);
  CHECK(find_fold_sites(model, 1).size() == 4);
}
