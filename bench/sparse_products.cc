// Speed of the evaluator's products that skip zeros beside its dense f32 ones: single layers over patterns and shares of zeros,
// then a model's blocks as a whole, pruned by magnitude.
//
//     bench_sparse_products [MODEL]      (default: sample_models/quill-7m)
//
// On one thread, in processor time, which a busy machine does not stretch. Every round runs dense and sparse one after the
// other, for each variant. `*` marks what the evaluator would take; the rest is dense there.
#include <array>
#include <cmath>

#include "bench/timing.h"
#include "core/parallel.h"
#include "model/forward.h"
#include "model/sparse_matrix.h"

using namespace llmc;
using namespace llmc::bench;

namespace {

struct Pattern {
  std::string name;
  int64_t rows = 1, cols = 1;  ///< of a block
  StripHeight height = StripHeight::one;
};
const Pattern patterns[] = {{"unstructured"}, {"block:2x8", 2, 8, StripHeight::two}, {"block:4x8", 4, 8, StripHeight::four}};
constexpr double zero_shares[] = {0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95};

void prune_blocks(Matrix& weight, const Pattern& pattern, double zeros) {
  Random random(2, "mask");
  for (int64_t first = 0; first < weight.rows(); first += pattern.rows)
    for (int64_t left = 0; left < weight.cols(); left += pattern.cols)
      if (random.uniform() < zeros)
        for (int64_t r = first; r < std::min(weight.rows(), first + pattern.rows); ++r) std::fill_n(weight.row(r) + left, std::min(pattern.cols, weight.cols() - left), 0.0f);
}

/// Of every four along a row the two smallest.
void prune_two_of_four(Matrix& weight) {
  for (size_t i = 0; i + 4 <= weight.values().size(); i += 4) {
    const std::span<float> group = weight.values().subspan(i, 4);
    std::array<size_t, 4> order{0, 1, 2, 3};
    std::ranges::sort(order, {}, [&](size_t k) { return std::abs(group[k]); });
    group[order[0]] = group[order[1]] = 0;
  }
}

void prune_by_magnitude(Matrix& weight, double zeros) {
  std::vector<float> sizes;
  for (float value : weight.values()) sizes.push_back(std::abs(value));
  const auto border = sizes.begin() + static_cast<ptrdiff_t>(zeros * static_cast<double>(sizes.size()));
  std::ranges::nth_element(sizes, border);
  for (float& value : weight.values())
    if (std::abs(value) < *border) value = 0;
}

double dense_over_sparse(const PackedMatrix& dense, const PackedMatrix& sparse, ConstMatrixView x, MatrixView y, int rounds) {
  constexpr int repetitions = 4;  // of a product, so that the clock's own time is nothing
  std::vector<double> ratios;
  for (int round = -1; round < rounds; ++round) {
    const auto time = [&](const PackedMatrix& packed) {
      return seconds([&] {
        for (int i = 0; i < repetitions; ++i) packed.apply(x, y);
      });
    };
    const double base = time(dense), ratio = base / time(sparse);
    if (round >= 0) ratios.push_back(ratio);
  }
  return median(ratios);
}

void measure_layers() {
  const struct {
    int64_t out, in;
    int rounds;
  } shapes[] = {{768, 256, 51}, {256, 768, 51}, {576, 576, 51}, {1536, 576, 31}, {2048, 2048, 11}, {4096, 4096, 5}};
  for (const auto& [out, in, rounds] : shapes) {
    const Matrix x = random_matrix(PackedMatrix::tile_rows, in, "x");
    Matrix y(x.rows(), out);
    const auto dense = matmul_list()[0].pack(random_matrix(out, in, "weight").view(), {}, Precision::f32);
    const auto print = [&](const std::string& name, const Matrix& weight, StripHeight height) {
      fmt::print("  {} {:.2f}x{}", name, dense_over_sparse(*dense, *pack_strips(weight.view(), {}, height), x.view(), y.view(), rounds), find_strip_height(weight.view(), matmul_list()[0].f32_time) == height ? "*" : "");
      std::fflush(stdout);
    };
    for (const Pattern& pattern : patterns) {
      fmt::print("{:12} {:13}", fmt::format("{} x {}", out, in), pattern.name);
      for (double zeros : zero_shares) {
        Matrix weight = random_matrix(out, in, "weight");
        prune_blocks(weight, pattern, zeros);
        print(fmt::format("{:.0f}%", 100 * zeros), weight, pattern.height);
      }
      fmt::print("\n");
    }
    Matrix weight = random_matrix(out, in, "weight");
    prune_two_of_four(weight);
    fmt::print("{:12} {:13}", fmt::format("{} x {}", out, in), "2:4");
    print("50%", weight, StripHeight::one);
    fmt::print("\n");
  }
}

/// All blocks over a sequence of 512 tokens: norms, attention and activations are in it too.
void measure_model(const std::string& directory) {
  SilentSink sink;
  const RunContext context{.sink = sink, .stop = {}};
  for (double zeros : {0.5, 0.6, 0.7, 0.8, 0.9}) {
    const Model model = load_model(directory, {}, context);
    for (const PlacedTensor& placed : model.tensors()) {
      if (!is_block_linear(placed)) continue;
      Matrix values = read_matrix(*placed.tensor);
      prune_by_magnitude(values, zeros);
      placed.tensor->form = make_floats(*placed.tensor, values.view());
    }
    const auto tokens = random_tokens(std::min<int64_t>(512, model.config().context), model.config().vocabulary);
    std::vector<std::unique_ptr<Forward>> forwards;
    std::vector<Variant> variants;
    for (Zeros choice : {Zeros::multiplied, Zeros::skipped}) {
      forwards.push_back(std::make_unique<Forward>(model, ForwardOptions{.zeros = choice}));
      const Forward& forward = *forwards.back();
      std::vector<std::shared_ptr<const BlockWeights>> blocks;
      for (int64_t block = 0; block < model.config().layers; ++block) blocks.push_back(forward.load_block(block));
      variants.push_back({choice == Zeros::skipped ? "sparse" : "dense", [&forward, &tokens, blocks, width = model.config().hidden] {
                            Matrix hidden(static_cast<int64_t>(tokens.size()), width);
                            forward.embed(tokens, hidden.view());
                            for (const auto& block : blocks) forward.run_block(*block, hidden.view());
                          }});
    }
    measure(fmt::format("all blocks, {:.0f} % zeros", 100 * zeros), variants, 15);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string model = argc > 1 ? argv[1] : LLMC_SOURCE_DIR "/sample_models/quill-7m";
  with_threads(1, [&] {
    measure_layers();
    measure_model(model);
  });
}
