#include "calib/sweep.h"

#include <cmath>
#include <tuple>

#include "core/error.h"
#include "core/parallel.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

namespace llmc {

using Catch::Matchers::Contains;

namespace {

using At = std::tuple<int64_t, Tap, int64_t>;  ///< block, tap, number of the part

/// Watches, and doubles one weight matrix of one block if told to.
class Watcher final : public BlockVisitor {
 public:
  explicit Watcher(Model& model, int64_t spoiled_block = -1) : model_(model), spoiled_block_(spoiled_block) {}

  bool needs_statistics(int64_t, Tap) const override { return true; }
  bool needs_drift_moment() const override { return true; }
  bool needs_observation(int64_t, Tap) const override { return true; }
  bool needs_exact_inputs() const override { return exact; }
  void observe(int64_t block, Tap tap, ConstMatrixView x) override {
    for (const TapPart& part : list_parts(tap, model_.config()))
      for (int64_t r = 0; r < x.rows; ++r)
        for (float value : x.column_range(part.first, part.count).row_span(r)) sums[{block, tap, part.number}] += double{value} * value;
  }
  void finish(int64_t block, Tap tap, const InputStatistics& seen) override {
    order.emplace_back(block, tap, seen.part);
    statistics[{block, tap, seen.part}] = seen;
    if (block != spoiled_block_ || tap != Tap::ffn_activation) return;
    StoredTensor& down = const_cast<StoredTensor&>(model_.get(Role::ffn_down, block));
    Matrix values = read_matrix(down);
    for (float& value : values.values()) value *= 2;
    down.form = make_floats(down, values.view());
  }

  std::vector<At> order;
  std::map<At, InputStatistics> statistics;
  std::map<At, double> sums;
  bool exact = false;

 private:
  Model& model_;
  int64_t spoiled_block_;
};

Sequences make_swept_sequences(const Model& model) {
  Random random(3, "sequences");
  Sequences sequences;
  for (int64_t length : {31, 32, 5}) {
    sequences.emplace_back();
    for (int64_t i = 0; i < length; ++i) sequences.back().push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(model.config().vocabulary))));
  }
  return sequences;
}

}  // namespace

TEST_CASE("Inputs that are kept as bf16 products round them give the same second moments and the same hidden states") {
  for (const auto& directory : golden_models()) {
    INFO(directory);
    Model model = load_model(directory, {}, test::context());
    const Sequences sequences = make_swept_sequences(model);
    const auto watch = [&](bool exact) {
      Watcher watcher(model);
      watcher.exact = exact;
      sweep(model, sequences, {.forward = {.precision = Precision::bf16}}, watcher, test::context());
      return watcher;
    };
    const Watcher rounded = watch(false), kept = watch(true);
    for (const auto& [at, seen] : kept.statistics) {
      CHECK(std::ranges::equal(seen.second_moment.values(), rounded.statistics.at(at).second_moment.values()));
      CHECK(rounded.sums.at(at) == Approx(kept.sums.at(at)).epsilon(0.01));
      const bool is_routed = std::get<Tap>(at) == Tap::ffn_input && model.config().experts > 0;  // kept for routers
      CHECK((rounded.sums.at(at) == kept.sums.at(at)) == is_routed);  // else one of them was rounded
    }
  }
}

TEST_CASE("A sweep that changes nothing sees every tap in order, and no error") {
  for (const auto& directory : golden_models()) {
    INFO(directory);
    Model model = load_model(directory, {}, test::context());
    Watcher watcher(model);
    const auto errors = sweep(model, make_swept_sequences(model), {}, watcher, test::context());
    REQUIRE(static_cast<int64_t>(errors.size()) == model.config().layers);
    for (const BlockError& error : errors) CHECK(error.relative_error == 0);
    std::vector<At> expected;
    std::map<At, int64_t> widths;
    for (int64_t block = 0; block < model.config().layers; ++block)
      for (Tap tap : all_taps)
        for (const TapPart& part : list_parts(tap, model.config())) expected.emplace_back(block, tap, part.number), widths[expected.back()] = part.count;
    CHECK(watcher.order == expected);
    for (const auto& [at, seen] : watcher.statistics) {
      CHECK(seen.tokens == 68);
      CHECK(seen.in() == widths.at(at));
      double trace = 0;
      for (float square : seen.mean_square()) trace += square;
      CHECK(trace * 68 == Approx(watcher.sums.at(at)).epsilon(1e-5));  // sums in f32 against f64
      for (int64_t i = 0; i < seen.in(); ++i)
        for (int64_t j = 0; j < seen.in(); ++j) {
          REQUIRE(seen.second_moment.row(i)[j] == seen.second_moment.row(j)[i]);
          REQUIRE(seen.drift_moment.row(i)[j] == 0);  // nothing was changed
        }
    }
  }
}

TEST_CASE("A sweep goes on with the changed weights: later taps see them, and the error is told") {
  Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  Model changed = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  Watcher plain(model), spoiling(changed, 0);
  const Sequences sequences = make_swept_sequences(model);
  sweep(model, sequences, {}, plain, test::context());
  const auto errors = sweep(changed, sequences, {}, spoiling, test::context());
  CHECK(errors[0].relative_error > 1e-3);
  CHECK(plain.sums.at({0, Tap::ffn_activation, 0}) == spoiling.sums.at({0, Tap::ffn_activation, 0}));
  CHECK(plain.sums.at({1, Tap::attention_context, 0}) != spoiling.sums.at({1, Tap::attention_context, 0}));
}

TEST_CASE("A sweep beside an original compares with that one, whatever the model is like by then") {
  const Model original = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  Model changed = load_model(golden_root() / "llama-gqa-tied", {}, test::context()), spoiled = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  const Sequences sequences = make_swept_sequences(original);
  Watcher spoiling(changed, 0), watcher(spoiled);
  const auto expected = sweep(changed, sequences, {}, spoiling, test::context());
  StoredTensor& down = const_cast<StoredTensor&>(spoiled.get(Role::ffn_down, 0));
  Matrix values = read_matrix(down);
  for (float& value : values.values()) value *= 2;
  down.form = make_floats(down, values.view());
  const auto errors = sweep(spoiled, sequences, {.original = &original}, watcher, test::context());
  REQUIRE(errors.size() == expected.size());
  for (size_t block = 0; block < errors.size(); ++block) CHECK(errors[block].relative_error == expected[block].relative_error);
  const auto& drift = watcher.statistics.at({1, Tap::ffn_input, 0}).drift_moment;
  CHECK(std::ranges::equal(drift.values(), spoiling.statistics.at({1, Tap::ffn_input, 0}).drift_moment.values()));

  const Model other = load_model(golden_root() / "gpt2-tied", {}, test::context());
  Watcher never(spoiled);
  if (other.config().hidden != original.config().hidden || other.config().layers != original.config().layers) CHECK_THROWS_WITH(sweep(spoiled, sequences, {.original = &other}, never, test::context()), Contains("expected the same, as they are compared block by block"));
}

TEST_CASE("A sweep gives the same statistics from memory and from spilled files, and for any number of threads") {
  const test::TemporaryDirectory directory;
  for (DType dtype : {DType::f32, DType::bf16}) {
    std::vector<std::map<At, InputStatistics>> results;
    for (int threads : {1, 3})
      for (uint64_t max_memory : {0, 1})
        with_threads(threads, [&] {
          Model model = load_model(golden_root() / "gpt2-tied", {}, test::context());
          Watcher watcher(model, 0);
          sweep(model, make_swept_sequences(model), {.activations = dtype, .spill_directory = directory.path(), .max_memory = max_memory}, watcher, test::context());
          results.push_back(std::move(watcher.statistics));
        });
    for (const auto& result : results)
      for (const auto& [at, seen] : result) {
        const InputStatistics& first = results[0].at(at);
        CHECK(std::ranges::equal(seen.second_moment.values(), first.second_moment.values()));
        CHECK(std::ranges::equal(seen.drift_moment.values(), first.drift_moment.values()));
        CHECK(seen.mean_abs == first.mean_abs);
        CHECK(seen.max_abs == first.max_abs);
      }
  }
  CHECK(std::filesystem::is_empty(directory.path()));
  Model model = load_model(golden_root() / "gpt2-tied", {}, test::context());
  Watcher watcher(model);
  CHECK_THROWS_WITH(sweep(model, make_swept_sequences(model), {.spill_directory = directory.path() / "none", .max_memory = 1}, watcher, test::context()), Contains("none") && Contains("calibration activations"));
}

TEST_CASE("Activations that are not finite are an error that says where") {
  InputAccumulator sums(2, {});
  Matrix x(3, 2);
  x.row(1)[1] = NAN;
  sums.add(x.view());
  CHECK_THROWS_WITH(sums.finish("block 2, ffn_input"), Contains("block 2, ffn_input: channel 1"));
  CHECK_THROWS_WITH(InputAccumulator(2, {}).finish("block 0"), Contains("no calibration token"));
}

TEST_CASE("Statistics of inputs beside the float model's are those of plain loops") {
  const int64_t tokens = 70, in = 33;
  const Matrix x = test::random_matrix(tokens, in, "x"), float_x = test::random_matrix(tokens, in, "float x");
  InputAccumulator sums(in, {});
  sums.add(x.view().row_range(0, 30), float_x.view().row_range(0, 30));
  sums.add(x.view().row_range(30, 40), float_x.view().row_range(30, 40));
  const InputStatistics found = sums.finish("t");
  CHECK(found.tokens == tokens);
  for (int64_t i = 0; i < in; ++i)
    for (int64_t j = 0; j < in; ++j) {
      double second = 0, drift = 0;
      for (int64_t t = 0; t < tokens; ++t) second += double{x.row(t)[i]} * x.row(t)[j], drift += (double{float_x.row(t)[i]} - x.row(t)[i]) * x.row(t)[j];
      REQUIRE(found.second_moment.row(i)[j] == Approx(second / tokens).margin(1e-5));  // sums in f32 against f64
      REQUIRE(found.drift_moment.row(i)[j] == Approx(drift / tokens).margin(1e-5));
    }
}

}  // namespace llmc
