#include "passes/block_scan.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/parallel.h"
#include "model/forward.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;

namespace {

const std::vector<std::vector<int32_t>> sequences = {{5, 9, 3, 60, 22, 7, 7, 41, 13, 2, 50}, {1, 2, 3, 4}};

Model load_scanned() { return load_model(golden_root() / "llama-gqa-tied", {}, test::context()); }

std::vector<BlockScan> scan(Model& model, PruneMethod method, std::span<const double> shares, double background = 0) {
  const nlohmann::json step = {{"sparsity", 0.5}, {"exclude", {"o_proj"}}};
  FieldReader fields(step, "test");
  const PruneTargets targets(fields, RankScope::tensor, "test");
  std::vector<PruneTarget> list;
  for (const PlacedTensor* placed : targets.resolve(model)) list.push_back({placed, 0.5});
  const RunContext run = test::context();
  return scan_blocks(model, targets, list, method, shares, background, {.run = run, .calibration = &sequences});
}

/// Mean KL of what the model predicts for all tokens, with softmax in f64.
double divergence(const Model& dense, const Model& pruned) {
  double sum = 0, rows = 0;
  for (const auto& tokens : sequences) {
    const Matrix p = compute_logits(dense, tokens, {}), q = compute_logits(pruned, tokens, {});
    for (int64_t r = 0; r < p.rows(); ++r) {
      double p_total = 0, q_total = 0;
      for (int64_t c = 0; c < p.cols(); ++c) p_total += std::exp(double{p.row(r)[c]}), q_total += std::exp(double{q.row(r)[c]});
      for (int64_t c = 0; c < p.cols(); ++c) {
        const double log_p = p.row(r)[c] - std::log(p_total), log_q = q.row(r)[c] - std::log(q_total);
        sum += std::exp(log_p) * (log_p - log_q);
      }
      ++rows;
    }
  }
  return sum / rows;
}

}  // namespace

TEST_CASE("The divergence of a block is that of the model with this block pruned and the others as they are, or to the background, and the model comes back as it was") {
  const Model dense = load_scanned();
  Model model = load_scanned();
  const std::vector<double> shares = {0.3, 0.8};
  const double background = GENERATE(0.0, 0.4);
  const auto scans = scan(model, PruneMethod::magnitude, shares, background);
  REQUIRE(scans.size() == static_cast<size_t>(dense.config().layers));
  for (const BlockScan& found : scans)
    for (size_t i = 0; i < shares.size(); ++i) {
      Model pruned = load_scanned();
      for (const PlacedTensor& placed : pruned.tensors()) {
        if (!is_block_linear(placed) || placed.row->role == Role::attention_output) continue;
        Matrix values = read_matrix(*placed.tensor);
        apply(choose_mask(values.view(), {}, RankScope::tensor, share_of(placed.block == found.block ? shares[i] : background, placed.tensor->count())), values.view());
        placed.tensor->form = FloatData(std::move(values));
      }
      CHECK(found.divergences[i] == Approx(divergence(dense, pruned)).epsilon(1e-4));  // f32 logits, as both have them
      CHECK(found.divergences[i] > 1e-6);
    }
  for (size_t i = 0; i < dense.tensors().size(); ++i) CHECK(test::same_bits(read_matrix(*dense.tensors()[i].tensor), read_matrix(*model.tensors()[i].tensor)));
}

TEST_CASE("A block that is pruned as much as the background gives what the others give") {
  Model model = load_scanned();
  const std::vector<double> shares = {0.5};
  const auto scans = scan(model, PruneMethod::wanda, shares, 0.5);
  for (const BlockScan& found : scans) CHECK(found.divergences == scans[0].divergences);
}

TEST_CASE("Divergences are the same bits for any number of threads, and others with the inputs' sizes in the scores") {
  const std::vector<double> shares = {0.5};
  std::vector<std::vector<BlockScan>> results;
  for (int threads : {1, 3}) with_threads(threads, [&] {
    Model model = load_scanned();
    results.push_back(scan(model, PruneMethod::wanda, shares));
  });
  Model model = load_scanned();
  const auto plain = scan(model, PruneMethod::magnitude, shares);
  for (size_t i = 0; i < plain.size(); ++i) {
    CHECK(results[0][i].divergences == results[1][i].divergences);
    CHECK(results[0][i].divergences != plain[i].divergences);
  }
}
