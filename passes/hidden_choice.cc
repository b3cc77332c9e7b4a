#include "passes/hidden_choice.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "passes/structures.h"

namespace llmc {
namespace {

void add_columns(ConstMatrixView weights, std::vector<double>& scores) {
  for (int64_t r = 0; r < weights.rows; ++r)
    for (int64_t c = 0; c < weights.cols; ++c) scores[static_cast<size_t>(c)] += double{weights.row(r)[c]} * weights.row(r)[c];
}

/// Adds the scores as shares of their sum.
void add_shares(const std::vector<double>& scores, std::vector<double>& sums) {
  const double whole = std::accumulate(scores.begin(), scores.end(), 0.0);
  for (size_t i = 0; i < scores.size() && whole > 0; ++i) sums[i] += scores[i] / whole;
}

class HiddenScan final : public BlockVisitor {
 public:
  explicit HiddenScan(const Model& model) : model_(model), scores_(static_cast<size_t>(model.config().hidden)), last_(scores_.size()) {}

  bool needs_statistics(int64_t, Tap tap) const override { return tap == Tap::attention_input || tap == Tap::ffn_input; }
  bool needs_block_outputs() const override { return true; }

  void finish(int64_t block, Tap tap, const InputStatistics& statistics) override {
    if (!needs_statistics(block, tap)) return;
    std::vector<double> scores(scores_.size());
    for (const PlacedTensor& placed : model_.tensors()) {
      if (placed.block != block || placed.part != Part::weight || find_tap(placed.row->role) != tap) continue;
      const std::vector<double> lost = score_by_activation(read_matrix(*placed.tensor).view(), statistics.mean_square(), 1);
      for (size_t i = 0; i < scores.size(); ++i) scores[i] += lost[i];
    }
    add_shares(scores, scores_);
  }

  void finish_block(int64_t block, const ActivationStore&, const ActivationStore& outputs) override {
    if (block + 1 < model_.config().layers) return;
    int64_t tokens = 0;
    for (int64_t i = 0; i < outputs.sequences(); ++i) {
      Matrix buffer;
      const ConstMatrixView states = outputs.view(i, buffer);
      for (int64_t t = 0; t < states.rows; ++t) {
        double size = 0;
        for (float x : states.row_span(t)) size += double{x} * x;
        for (int64_t c = 0; c < states.cols && size > 0; ++c) last_[static_cast<size_t>(c)] += double{states.row(t)[c]} * states.row(t)[c] / size * static_cast<double>(states.cols);
      }
      tokens += states.rows;
    }
    for (double& value : last_) value /= static_cast<double>(tokens);
  }

  nlohmann::json notes() const override { return {{"scores", scores_}, {"last", last_}}; }
  void restore_notes(const nlohmann::json& notes) override { scores_ = notes.at("scores").get<std::vector<double>>(), last_ = notes.at("last").get<std::vector<double>>(); }

  HiddenChoice choose(int64_t kept) const {
    const Matrix gain = read_matrix(model_.get(Role::final_norm)), head = read_matrix(model_.get(Role::output_head));
    std::vector<double> lost(scores_.size()), sums = scores_;
    add_columns(head.view(), lost);
    for (size_t i = 0; i < lost.size(); ++i) lost[i] *= std::pow(gain.values()[i] + model_.config().norm_offset, 2) * last_[i];
    add_shares(lost, sums);
    return {.kept = keep_highest(sums, kept), .head_mean_square = last_};
  }

 private:
  const Model& model_;
  std::vector<double> scores_;
  std::vector<double> last_;
};

}  // namespace

HiddenChoice choose_hidden_by_magnitude(const Model& model, int64_t kept) {
  std::vector<double> scores(static_cast<size_t>(model.config().hidden));
  for (const PlacedTensor& placed : model.tensors()) {
    if (placed.part != Part::weight || placed.row->kind == TensorKind::norm) continue;
    const Matrix weights = read_matrix(*placed.tensor);
    if (placed.row->in == Dimension::hidden) add_columns(weights.view(), scores);
    if (placed.row->out != Dimension::hidden) continue;
    for (int64_t r = 0; r < weights.rows(); ++r)
      for (float value : weights.view().row_span(r)) scores[static_cast<size_t>(r)] += double{value} * value;
  }
  return {.kept = keep_highest(scores, kept), .head_mean_square = {}};
}

HiddenChoice choose_hidden_by_activation(Model& model, int64_t kept, const PassContext& context) {
  HiddenScan scan(model);
  SweepOptions options = context.scan();
  if (options.persistence == Persistence::resumable) options.state_directory += "-hidden";
  sweep(model, *context.calibration, options, scan, context.run);
  return scan.choose(kept);
}

void rescale_norms(Model& model, const HiddenChoice& choice, int64_t before) {
  const double stretch = static_cast<double>(before) / static_cast<double>(model.config().hidden);
  double left = choice.head_mean_square.empty() ? 1 : 0;  // of the last states' size
  if (!choice.head_mean_square.empty())
    for (int64_t dimension : choice.kept) left += choice.head_mean_square[static_cast<size_t>(dimension)] / static_cast<double>(before);
  for (const PlacedTensor& placed : model.tensors()) {
    if (!is_hidden_norm(*placed.row) || placed.part != Part::weight) continue;
    Matrix gain = read_matrix(*placed.tensor);
    const auto offset = static_cast<float>(model.config().norm_offset);
    const double factor = std::sqrt(placed.row->role == Role::final_norm ? stretch * left : stretch);
    for (float& value : gain.values()) value = static_cast<float>((value + offset) * factor) - offset;
    placed.tensor->form = make_floats(*placed.tensor, gain.view());
  }
}

}  // namespace llmc
