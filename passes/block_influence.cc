#include "passes/block_influence.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/parallel.h"

namespace llmc {
namespace {

class InfluenceScan final : public BlockVisitor {
 public:
  bool needs_statistics(int64_t, Tap) const override { return false; }
  void finish(int64_t, Tap, const InputStatistics&) override {}
  bool needs_block_outputs() const override { return true; }

  void finish_block(int64_t, const ActivationStore& inputs, const ActivationStore& outputs) override {
    std::vector<double> sums(static_cast<size_t>(inputs.sequences()));  // by sequence, so that the sum has one order
    std::vector<int64_t> tokens(sums.size());
    parallel_for(inputs.sequences(), [&](int64_t i) {
      Matrix before_buffer, after_buffer;
      const ConstMatrixView before = inputs.view(i, before_buffer), after = outputs.view(i, after_buffer);
      tokens[static_cast<size_t>(i)] = before.rows;
      for (int64_t t = 0; t < before.rows; ++t) {
        double product = 0, size_before = 0, size_after = 0;
        for (int64_t c = 0; c < before.cols; ++c) {
          const double a = before.row(t)[c], b = after.row(t)[c];
          product += a * b, size_before += a * a, size_after += b * b;
        }
        const double sizes = std::sqrt(size_before * size_after);
        sums[static_cast<size_t>(i)] += sizes > 0 ? 1 - product / sizes : 0;
      }
    });
    double sum = 0;
    int64_t count = 0;
    for (size_t i = 0; i < sums.size(); ++i) sum += sums[i], count += tokens[i];
    influences_.push_back(sum / static_cast<double>(count));
  }

  nlohmann::json notes() const override { return influences_; }
  void restore_notes(const nlohmann::json& notes) override { influences_ = notes.get<std::vector<double>>(); }
  const std::vector<double>& influences() const { return influences_; }

 private:
  std::vector<double> influences_;
};

}  // namespace

std::vector<double> measure_block_influence(Model& model, const PassContext& context) {
  InfluenceScan scan;
  sweep(model, *context.calibration, context.scan(), scan, context.run);
  return scan.influences();
}

}  // namespace llmc
