#include "calib/imatrix_collector.h"

#include <cmath>
#include <map>

#include "core/error.h"
#include "core/parallel.h"
#include "model/gguf_model.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

namespace llmc {

using Catch::Matchers::Contains;

namespace {

/// Of lengths that no piece divides, and more of them than are added up side by side.
Sequences make_sequences(const Model& model, int64_t count) {
  Random random(3, "sequences");
  Sequences sequences;
  for (int64_t s = 0; s < count; ++s) {
    sequences.emplace_back();
    for (int64_t i = 0; i < 1 + s % 31; ++i) sequences.back().push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(model.config().vocabulary))));
  }
  return sequences;
}

/// Σ x² at every tap, of the sweep that calibration runs.
class Squares final : public BlockVisitor {
 public:
  bool needs_statistics(int64_t, Tap) const override { return false; }
  bool needs_observation(int64_t, Tap) const override { return true; }
  void observe(int64_t block, Tap tap, ConstMatrixView x) override {
    auto& sums = of[{block, tap}];
    sums.resize(static_cast<size_t>(x.cols));
    for (int64_t r = 0; r < x.rows; ++r)
      for (int64_t c = 0; c < x.cols; ++c) sums[static_cast<size_t>(c)] += double{x.row(r)[c]} * x.row(r)[c];
  }
  void finish(int64_t, Tap, const InputStatistics&) override {}

  std::map<std::pair<int64_t, Tap>, std::vector<double>> of;
};

/// Σ x² of what the head reads, from whole passes of the forward model.
std::vector<double> head_squares(const Model& model, const Sequences& sequences) {
  const Forward forward(model, {});
  std::vector<double> sums(static_cast<size_t>(model.config().embedding_width()));
  for (const auto& tokens : sequences) {
    Matrix hidden(std::ssize(tokens), model.config().hidden), input(hidden.rows(), model.config().embedding_width());
    forward.embed(tokens, hidden.view());
    for (int64_t block = 0; block < model.config().layers; ++block) forward.run_block(*forward.load_block(block), hidden.view());
    forward.enter_block(*forward.load_head_entry(), hidden.view(), input.view());
    for (int64_t r = 0; r < input.rows(); ++r)
      for (int64_t c = 0; c < input.cols(); ++c) sums[static_cast<size_t>(c)] += double{input.row(r)[c]} * input.row(r)[c];
  }
  return sums;
}

void check_entry(const ImatrixEntry& entry, const std::vector<double>& sums, int64_t tokens) {
  CHECK(entry.count == tokens);
  REQUIRE(entry.sums.size() == sums.size());
  for (size_t c = 0; c < sums.size(); ++c) CHECK(entry.sums[c] == Approx(sums[c]).epsilon(1e-6));  // the same f32 inputs; sums in f64 in another order, then rounded to f32
}

}  // namespace

TEST_CASE("An importance matrix has the squares of what the sweep sees at each tap, and of what the head reads", "[imatrix]") {
  for (const auto& directory : golden_models()) {
    INFO(directory);
    Model model = load_model(directory, {}, test::context());
    const Sequences sequences = make_sequences(model, 70);
    if (model.config().experts > 0) {
      CHECK_THROWS_WITH(collect_imatrix(model, sequences, {}, test::context()), Contains("has experts"));
      continue;
    }
    int64_t tokens = 0;
    for (const auto& sequence : sequences) tokens += std::ssize(sequence);
    const Imatrix imatrix = collect_imatrix(model, sequences, {}, test::context());
    Squares squares;
    sweep(model, sequences, {}, squares, test::context());
    size_t linear = 1;
    for (const PlacedTensor& placed : model.tensors())
      if (is_block_linear(placed)) {
        ++linear;
        check_entry(imatrix.entries.at(gguf_tensor_name(placed)), squares.of.at({placed.block, *find_tap(placed.row->role)}), tokens);
      }
    CHECK(imatrix.entries.size() == linear);
    const bool tied = model.config().tied_head;
    CHECK(!imatrix.entries.contains(tied ? "output.weight" : "token_embd.weight"));
    check_entry(imatrix.entries.at(tied ? "token_embd.weight" : "output.weight"), head_squares(model, sequences), tokens);
  }
}

TEST_CASE("An importance matrix is the same for any number of threads, and from spilled activations", "[imatrix]") {
  const test::TemporaryDirectory directory;
  const Model model = load_model(golden_root() / "gpt2-tied", {}, test::context());
  const Sequences sequences = make_sequences(model, 130);
  for (DType activations : {DType::f32, DType::bf16}) {
    std::vector<Imatrix> found;
    for (int threads : {1, 3})
      for (uint64_t max_memory : {0, 1})
        with_threads(threads, [&] { found.push_back(collect_imatrix(model, sequences, {.activations = activations, .spill_directory = directory.path() / "new", .max_memory = max_memory}, test::context())); });
    for (const Imatrix& imatrix : found) CHECK(imatrix == found[0]);
  }
  CHECK(std::filesystem::is_empty(directory.path() / "new"));
}

TEST_CASE("Inputs that are not finite end the measuring of an importance matrix, and no token starts none", "[imatrix]") {
  Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  CHECK_THROWS_WITH(collect_imatrix(model, {}, {}, test::context()), Contains("imatrix: no calibration token"));
  StoredTensor& down = const_cast<StoredTensor&>(model.get(Role::ffn_down, 0));
  Matrix values = read_matrix(down);
  values.values()[0] = INFINITY;
  down.form = make_floats(down, values.view());
  CHECK_THROWS_WITH(collect_imatrix(model, make_sequences(model, 3), {}, test::context()), Contains("not finite"));
}

}  // namespace llmc
