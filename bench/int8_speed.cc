// Speed of the evaluator's integer products beside its f32 and bf16 ones: single layers, then a model's blocks as a whole.
//
//     bench_int8_speed [MODEL]      (default: sample_models/quill-7m)
//
// On one thread, in processor time, which a busy machine does not stretch. Every round runs each variant once, one after
// the other. Printed are medians over the rounds and, as ratios, the medians of f32's time over the variant's in the same
// round.
#include "bench/timing.h"
#include "core/parallel.h"
#include "model/forward.h"
#include "passes/rounding.h"

using namespace llmc;
using namespace llmc::bench;

namespace {

constexpr const char* schemes[] = {"W8A8", "W8A8-dynamic-linear", "W4A8-g128", "W4A8-g32"};

void measure_layers() {
  constexpr int64_t tokens = 512;
  const struct {
    int64_t out, in;
    int rounds;
  } shapes[] = {{768, 256, 101}, {256, 768, 101}, {2048, 2048, 21}, {4096, 4096, 7}};
  for (const auto& [out, in, rounds] : shapes) {
    const Matrix values = random_matrix(out, in, "weight"), x = random_matrix(tokens, in, "x");
    Matrix y(tokens, out);
    StoredTensor floats{.name = "weight", .dtype = DType::f32, .shape = {out, in}};
    floats.form = make_floats(floats, values.view());
    std::vector<Linear> layers;
    std::vector<std::string> names = {"f32", "bf16"};
    layers.emplace_back(floats, nullptr, Precision::f32, default_backend());
    layers.emplace_back(floats, nullptr, Precision::bf16, default_backend());
    for (const char* scheme : schemes) {
      StoredTensor quantized{.name = "weight", .dtype = DType::f32, .shape = {out, in}};
      quantized.form = round_to_nearest(values.view(), parse_scheme(scheme), DType::f32, {}, "weight");
      layers.emplace_back(quantized, nullptr, Precision::f32, default_backend());
      names.push_back(scheme);
    }
    std::vector<Variant> variants;
    for (size_t i = 0; i < layers.size(); ++i) variants.push_back({names[i], [&, i] { layers[i].apply(x.view(), y.view()); }});
    measure(fmt::format("{} x {}, {} tokens", out, in, tokens), variants, rounds);
  }
}

/// All blocks over sequences of 512 tokens: norms, attention and activations are in it too.
void measure_model(const std::string& directory) {
  SilentSink sink;
  const RunContext context{.sink = sink, .stop = {}};
  const auto load = [&] { return load_model(directory, {}, context); };
  const Model floats = load();
  std::vector<Model> quantized;
  for (const char* scheme : schemes) {
    quantized.push_back(load());
    for (const PlacedTensor& placed : quantized.back().tensors())
      if (is_block_linear(placed)) placed.tensor->form = round_to_nearest(read_matrix(*placed.tensor).view(), parse_scheme(scheme), DType::f32, {}, placed.tensor->name);
  }
  const auto tokens = random_tokens(std::min<int64_t>(512, floats.config().context), floats.config().vocabulary);

  struct Loaded {
    std::unique_ptr<Forward> forward;
    std::vector<std::shared_ptr<const BlockWeights>> blocks;
  };
  std::vector<Loaded> runs;
  std::vector<Variant> variants;
  const auto add = [&](const std::string& name, const Model& model, const ForwardOptions& options) {
    Loaded loaded{.forward = std::make_unique<Forward>(model, options), .blocks = {}};
    for (int64_t block = 0; block < model.config().layers; ++block) loaded.blocks.push_back(loaded.forward->load_block(block));
    runs.push_back(std::move(loaded));
    variants.push_back({name, [&runs, &tokens, width = model.config().hidden, i = runs.size() - 1] {
                          Matrix hidden(static_cast<int64_t>(tokens.size()), width);
                          runs[i].forward->embed(tokens, hidden.view());
                          for (const auto& block : runs[i].blocks) runs[i].forward->run_block(*block, hidden.view());
                        }});
  };
  add("f32", floats, {});
  add("bf16", floats, {.precision = Precision::bf16});
  for (size_t i = 0; i < quantized.size(); ++i) add(schemes[i], quantized[i], {});
  add("f32 + 8-bit cache", floats, {.kv_cache_bits = 8});
  measure("all blocks, 512 tokens", variants, 21);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string model = argc > 1 ? argv[1] : LLMC_SOURCE_DIR "/sample_models/quill-7m";
  with_threads(1, [&] {
    measure_layers();
    measure_model(model);
  });
}
